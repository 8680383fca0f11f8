"""The manual pages of Linux and their German translations, as Debian 12 has them: what `english_german` fetches.

The pages have many free licences, the translations GPL-3 or later; none of it is in this repository.
"""

from keras_transformer.data.archives import Member
from keras_transformer.data.assets import Asset

ENGLISH_FOLDER, GERMAN_FOLDER = "./usr/share/man/", "./usr/share/man/de/"


def _package(project: str, version: str, size: int, sha256: str, content_size: int, content_sha256: str) -> Asset:
    content = Member("data.tar.xz", f"{project}.tar.xz", content_size, content_sha256)
    return Asset(project.replace("-", "_"), project, version, False, size, sha256, (content,), is_debian=True)


ENGLISH = (
    _package(
        "manpages",
        "6.03-2",
        1_331_652,
        "efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91",
        1_325_264,
        "a8ca1b8d69b12227978b2715c6e73e09bbaabcc3189da5690d050cfe67f9287c",
    ),
    _package(
        "manpages-dev",
        "6.03-2",
        2_030_264,
        "96f55cb5e26231d5567c89b692bced63825a14a2d5bd18fdf16ea2ed44eb9838",
        2_008_424,
        "ba131b71effd1cb21b40c2449b95014be6c422b265be824f8cf5acdb17af0bc0",
    ),
)
GERMAN = (
    _package(
        "manpages-de",
        "4.18.1-1",
        3_615_560,
        "37d2e7ee51f22952aecec3af93647ff59194a3c74bb7a694560f49c7f7ab3978",
        3_592_836,
        "88ac760823319ce673c9371fa89fadafba69e504617327b2805cd915e55af991",
    ),
    _package(
        "manpages-de-dev",
        "4.18.1-1",
        1_141_048,
        "cb3d7c10977dd3c811065d89e0d912196ec5e6f2551308edb0ba72e02da838d7",
        1_130_792,
        "78b856e6469585ad5c91d6ff76a00ab582042f857baa7deb3c641710f19b489c",
    ),
)
