"""The gettext catalogues of eleven packages, English to German: what `english_german` fetches, pinned.

Of Django also those of other scripts, for trials of tokenizers. Each package has a licence that allows copies (BSD,
MIT, Apache-2.0); none of it is in this repository.
"""

from keras_transformer.data.archives import Member
from keras_transformer.data.assets import Asset


def _catalogs(project: str, version: str, size: int, sha256: str, listed: str) -> Asset:
    """An asset out of lines in pairs: path and bytes, then sha256."""
    fields = listed.split()
    members = tuple(
        Member(path, path, int(length), digest)
        for path, length, digest in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    )
    name = "messages_" + project.lower().replace("-", "_")
    return Asset(name, project, version, False, size, sha256, members)


CATALOGS = (
    _catalogs(
        "Django",
        "5.2.19",
        8_319_631,
        "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        """
        django/conf/locale/de/LC_MESSAGES/django.mo 29046
            8a82eaa6cc61030c6e75c7dcd28547cedb9c0a7736db88385bb9a11650b02ab1
        django/contrib/admin/locale/de/LC_MESSAGES/django.mo 18262
            f262a60fb604bf6a9af3c132ec8ffb18eedefeeca8599396c9438170c85b1526
        django/contrib/admin/locale/de/LC_MESSAGES/djangojs.mo 6130
            91dbdee1dd7cd408460de90789ac6defd8b2556bda869de4f523771fa5f1ffdc
        django/contrib/admindocs/locale/de/LC_MESSAGES/django.mo 6567
            45e4b3d1a1f54ca4fa02d3f5de55a838d9f034cd8e1a8e232bd7d7265a3be477
        django/contrib/auth/locale/de/LC_MESSAGES/django.mo 7138
            29ee0c556c0c550c577897c3a5e9b4d597291f99874a34f259f0e362736aaa26
        django/contrib/contenttypes/locale/de/LC_MESSAGES/django.mo 1055
            306519e06c3cad216304ed8e7c55fda28186a4963001aa6036473e19d04c5dad
        django/contrib/flatpages/locale/de/LC_MESSAGES/django.mo 2373
            2380871738d833f59dfafb8860e31ff04e7c9ed3a090b9a0380837e4285dcf7b
        django/contrib/gis/locale/de/LC_MESSAGES/django.mo 1930
            7c40a68fcd4b1ce51c05c43f3e84169628d5a774a34c6dc6c2c49189418c5ce5
        django/contrib/humanize/locale/de/LC_MESSAGES/django.mo 4364
            68e51ac7d72c2276d79e30097378eae1d716ffd1feeae79523e4ed2b3d9bf6ad
        django/contrib/postgres/locale/de/LC_MESSAGES/django.mo 3078
            8937c6e0ec6fc121b7d94fcf4344e6b65dfcbfcde14a315ad96d09f12c343541
        django/contrib/redirects/locale/de/LC_MESSAGES/django.mo 1155
            ba1fa5772f909164b9f80457e9c2f2cf1cdd85b4dbfdc87211b04f142bc22ae1
        django/contrib/sessions/locale/de/LC_MESSAGES/django.mo 721
            3779136a5d182bdcfb4dedf36062db266a1207aa166af8960cb19d3e5b0f6bd8
        django/contrib/sites/locale/de/LC_MESSAGES/django.mo 792
            e50e97d3f6c3435651a644f2ed4a4f373ae1990b01f50d0fd5a801ee4a11cb3b
        django/conf/locale/ar/LC_MESSAGES/django.mo 35688
            a816843e17c9c5dda62b5b8f1fb274ea13c8dff95e44fb1691581c2ad25202f4
        django/conf/locale/he/LC_MESSAGES/django.mo 31336
            a9432447f328aa96390fc1a41ce041e1d71c0ee99183562e71c3ce219b9d663e
        django/conf/locale/hi/LC_MESSAGES/django.mo 19712
            f295798f9abc55baf175591c4b4ab0855c7a0e65d14573ca7d1b26de75a12368
        django/conf/locale/ja/LC_MESSAGES/django.mo 30973
            c56fe1a8b51d0ef5a95eb40b8f418f6874e75eec78c67a143d290db792c86102
        django/conf/locale/ko/LC_MESSAGES/django.mo 29171
            692b7eb875956c5095acf33e4e08806bc58dfb616074c0a5e595ed2729ad21ef
        django/conf/locale/ru/LC_MESSAGES/django.mo 38784
            d76f34242dc538154255a2bb044fe2aeedb1624018acdc49fb425838d47330b0
        django/conf/locale/th/LC_MESSAGES/django.mo 18629
            48979e2566dd17e2da7b905e9ddc65c8c2aac79cdd0e687718241af044791726
        django/conf/locale/zh_Hans/LC_MESSAGES/django.mo 26813
            099a8a392f72c616cdd4184d1df7d9749dea13541a78899d5bc5d4a9ee56ddb1
        """,
    ),
    _catalogs(
        "wagtail",
        "8.0.1",
        9_841_588,
        "1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
        """
        wagtail/admin/locale/de/LC_MESSAGES/django.mo 94900
            b7121710be59e19bb13fcd813c13e293058e1cd2afd3556893068d1a71f71a16
        wagtail/admin/locale/de/LC_MESSAGES/djangojs.mo 5413
            db2b8e5326f8e8b74a09e3e72844b7d5ec2fe9089bc925f6fbb0f99939b87596
        wagtail/contrib/forms/locale/de/LC_MESSAGES/django.mo 4755
            f00fd18a22d46a099d9d194c045f426a1bd0aceff2b3213730728acba6789e2a
        wagtail/contrib/redirects/locale/de/LC_MESSAGES/django.mo 5700
            c51cb852d459b10777b6cade83bf1a6702c9ae5eca6274716582fa79a10f6e77
        wagtail/contrib/search_promotions/locale/de/LC_MESSAGES/django.mo 5981
            0790ac1b30737e2eb8e84e9a8dd2ab283bfae88a8cc43b1d279bbbc5a192474c
        wagtail/contrib/settings/locale/de/LC_MESSAGES/django.mo 1123
            4acaa853f6e1a7994ac9ed51ebba946215d156874832a408f1c27e12b62dbc10
        wagtail/contrib/simple_translation/locale/de/LC_MESSAGES/django.mo 2108
            204eef2471c036c4c7280e888913383283e402d57416d269240ef94d938b249c
        wagtail/contrib/styleguide/locale/de/LC_MESSAGES/django.mo 926
            a3f740a34c8c25e1ccd4d7a3847e5ec86376ebbcb36963e5dd5608aaedaf5230
        wagtail/contrib/table_block/locale/de/LC_MESSAGES/django.mo 1575
            d2badf29aed7c3c01dbaba732d26f76c1295efbda19fad5550682575a7ea911a
        wagtail/contrib/typed_table_block/locale/de/LC_MESSAGES/django.mo 1064
            d82924b705d271d4733a1230c9aeb060e7c335b8a3a9e577464cd0ceed0934a9
        wagtail/documents/locale/de/LC_MESSAGES/django.mo 10554
            9d7e90619597c9e4f2921ddddb740cc827d85797eecd40cfeb15affff219962f
        wagtail/embeds/locale/de/LC_MESSAGES/django.mo 1326
            1fadb4592ca4d606f53b9129e7719814146eb3720a72b01782b5d2733dbf152f
        wagtail/images/locale/de/LC_MESSAGES/django.mo 15169
            decb16146c0b5e423f5ccd93be54816fbfa485547aefa9dd3f814b760320f92a
        wagtail/locale/de/LC_MESSAGES/django.mo 26256
            c5ff1ad3096e5fc1575b943f2e1552d35f0b0ec62c45af77db7353c3aaff9f03
        wagtail/locales/locale/de/LC_MESSAGES/django.mo 2379
            33dcaabe02e7b1e53c32c5e802fd8acdaede4d11ef4e0163118e789ed9dba209
        wagtail/sites/locale/de/LC_MESSAGES/django.mo 1472
            fef0c3cdbe1f0e4b0d85dff4eeef42746028801a93cfe787a9128fb765e31b86
        wagtail/snippets/locale/de/LC_MESSAGES/django.mo 4279
            d357eaea0c907e0d117154933e539a69c66f6bd9c567c2ad5af1840b4346a1c2
        wagtail/users/locale/de/LC_MESSAGES/django.mo 13114
            ff3bbc6a4cc35ff03eae163a9f9b8b04fd6ff5281a8bdc5c3563fee1b706debe
        """,
    ),
    _catalogs(
        "django-cms",
        "5.1.3",
        3_562_685,
        "acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e",
        """
        cms/locale/de/LC_MESSAGES/django.mo 43896
            51048e6724444fc54a06c70d26fb033acc3142fc58c3b10164bcd6c8c48642e4
        """,
    ),
    _catalogs(
        "django-oscar",
        "4.2.1",
        8_984_805,
        "adbb95ea0130859c204cc6fb221052d6d437ecbaa90800e8418a809f72645e9c",
        """
        oscar/locale/de/LC_MESSAGES/django.mo 149914
            2599b254f19bfa326efabb045a4c3727027b3a0c78d104b99bb7da66c33e67fe
        """,
    ),
    _catalogs(
        "Sphinx",
        "9.0.4",
        3_917_713,
        "5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
        """
        sphinx/locale/de/LC_MESSAGES/sphinx.mo 10604
            6260df962e9cbcac05d755cadd211095145fac3a063a44205c5f95825a1a1cb5
        sphinx/locale/de_DE/LC_MESSAGES/sphinx.mo 781
            69894ea8ee0abdd706efb6bcf0a492fd51dd387e4a701af0d8de7f7c82312b7f
        """,
    ),
    _catalogs(
        "Mezzanine",
        "6.1.1",
        6_027_759,
        "abb8a3d7ee91b724d8aa89fa971bad1cf8e368c21055da4913e20e1418a96d1b",
        """
        mezzanine/accounts/locale/de/LC_MESSAGES/django.mo 6088
            ac0791c191b94f9b29fafae01055a6cfea696547ea3447fb2c42b06c9f423cb4
        mezzanine/blog/locale/de/LC_MESSAGES/django.mo 2825
            d43adfa42d0bef711d09e522781eee0523aefcbf2aecfe0d2c070bc3f65c74b7
        mezzanine/conf/locale/de/LC_MESSAGES/django.mo 887
            05cc2b05e38c7fd7bf2569ae4bf38173bfd2019235ab7a6f695f1d3e3efbe2d7
        mezzanine/core/locale/de/LC_MESSAGES/django.mo 15265
            338ab0021799d056b974a9b8d71f8d9946752d1320016aaed544c4e3c98001dc
        mezzanine/forms/locale/de/LC_MESSAGES/django.mo 5539
            541b9b8fe0c8a630b36d8a3bbd3dab5add0a14c694ebb5b0a3e270cfe93dbb44
        mezzanine/galleries/locale/de/LC_MESSAGES/django.mo 925
            dce0a082b269c6380c78d44ca4e3459ff6a9c02c12789cb3216e4047a8351d34
        mezzanine/generic/locale/de/LC_MESSAGES/django.mo 5248
            0f6d0e5201098bc4ccfff9cf0da87ea13f2fb8c108fc5f55ab61023283a574d9
        mezzanine/pages/locale/de/LC_MESSAGES/django.mo 1418
            30865cbcf4c8f679aa001e81896ebf005bb38af0b2607ed6913b62de93c52de7
        mezzanine/twitter/locale/de/LC_MESSAGES/django.mo 2105
            9ec47cfbc9500478f706b56a6fad6bba1dfe606d01037651e2ab51354a0143b9
        """,
    ),
    _catalogs(
        "indico",
        "3.2.9",
        30_004_029,
        "194d2e31ccaabd2b9af7809e67d60d942faee35a6b4de36f0c2c280a32ed84c3",
        """
        indico/translations/de_DE/LC_MESSAGES/messages.mo 385108
            dbcafc3c102f9f95447e4501fd80b411fe0caae20eefb5bff91e094109bc9192
        """,
    ),
    _catalogs(
        "spyder",
        "6.1.8",
        14_481_595,
        "4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90",
        """
        spyder/locale/de/LC_MESSAGES/spyder.mo 177498
            0d7072374f82a0f166cd0c5015172d373beb668810ca4147377a7802e8418208
        """,
    ),
    _catalogs(
        "thonny",
        "5.0.1",
        2_725_257,
        "94eb9fc3d9f45acffcda51c17e75f56bb4b14427fee0467e14fb4f6210c33041",
        """
        thonny/locale/de_DE/LC_MESSAGES/thonny.mo 37404
            65a257c465733cc9b03a90f204732095263804c64f5a57eeb10367e595b85dad
        """,
    ),
    _catalogs(
        "horizon",
        "27.0.0",
        5_297_721,
        "8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
        """
        horizon/locale/de/LC_MESSAGES/django.po 10581
            c5993c2cfdd202969f8ce771d4f3d897f655cabd85ecef3b1eb1589c74c274cf
        horizon/locale/de/LC_MESSAGES/djangojs.po 12253
            94071b691469b1b17b08eb13fe8567a68db21aecdf548cb697861f96fc62d654
        openstack_auth/locale/de/LC_MESSAGES/django.po 4265
            796031be7d20e1b8ab671383e1880c5e5a0d099985f1843bdebbe835dadbf32d
        openstack_dashboard/locale/de/LC_MESSAGES/django.po 242582
            90455f33a05fa6c48f66e7e1c70839d9c7c472203e4d453c281ad431ff27ea69
        openstack_dashboard/locale/de/LC_MESSAGES/djangojs.po 110468
            f3d703ef32e69703f899551d5d004951bcc33d39ba75ffcfec303e97a4e27b57
        """,
    ),
    _catalogs(
        "jupyterlab-language-pack-de-DE",
        "4.5.post3",
        68_327,
        "b716b56f7e0c884f42152d5e36c253ea0f32ca41f99097d842d3934f4a4bc7fb",
        """
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyter_archive.mo 836
            734af4181dfee45d54f44bdf19035aefd24c518db8a01c81952058a945e4a7df
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyter_resource_usage.mo 966
            ca8946e9de79f1fc6766ee9cfbc3c66a2fc8fd62b8e971434b58b0a4e7b26541
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyterlab.mo 64760
            ebcd1c3791fec94b0cf2cee4a3f5aa3f3032547dc1ad9501ac6173156a7d197a
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyterlab_git.mo 7765
            37d9ea115e2e806fd5990220170931e9019bb651f20e83816686763db3ad413e
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyterlab_lsp.mo 1572
            862a0ef2d2704eb6c4b34bebb8de36278fa82ba30136459fb929ba2c1af32eb4
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/jupyterlab_search_replace.mo 808
            926227de8c5ebdad2d6e4b7b7315bbe74ee231cb3a7d94c4175ecc8d53d32577
        jupyterlab_language_pack_de_DE/locale/de_DE/LC_MESSAGES/notebook.mo 847
            c724737ab8cbb00cc855490a49e581268f6917b468817811a0eaf9d415c7e17e
        """,
    ),
)
