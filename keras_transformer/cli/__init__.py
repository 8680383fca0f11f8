"""The command line: each command parses, calls one function of the library, and prints one result.

Nothing here imports TensorFlow before a command needs it.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from keras_transformer.cli import failures, output
from keras_transformer.cli.benchmark import benchmark
from keras_transformer.cli.compress import compress
from keras_transformer.cli.demo import demo
from keras_transformer.cli.distill import distill
from keras_transformer.cli.evaluate import evaluate
from keras_transformer.cli.export import export
from keras_transformer.cli.generate import generate
from keras_transformer.cli.predict import predict
from keras_transformer.cli.serve import serve
from keras_transformer.cli.train import train
from keras_transformer.version import __version__

app = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings={"max_content_width": 100})
for command in (demo, train, distill, compress, export, evaluate, predict, generate, benchmark, serve):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Make a big Transformer small, and ship it to phones and servers with proof that it still agrees."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 2 the user's mistake, 1 a fault of ours."""
    output.prepare_streams()
    if not failures.wants_traceback():
        output.silence_libraries()
    sys.excepthook = failures.report_fault
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = typer.main.get_command(app)
        code = command.main(given or ["--help"], prog_name=failures.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        failures.say(failures.usage_line(error, given))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = failures.INTERRUPTED
    except BrokenPipeError:
        output.drop_standard_output()
        code = failures.FAULT_OF_OURS
    except output.OutputError as error:
        output.drop_standard_output()
        failures.say(str(error))
        code = failures.USERS_MISTAKE
    except failures.kinds_to_look_at() as error:
        if not failures.is_users_mistake(error):
            raise
        failures.say(failures.users_line(error))
        code = failures.USERS_MISTAKE
    if code == failures.INTERRUPTED:
        failures.say("stopped by Ctrl-C")
    sys.exit(code or 0)
