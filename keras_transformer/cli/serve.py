"""`keras-transformer serve`: a server for development with the paths of TensorFlow Serving."""

from pathlib import Path
from typing import Annotated

import typer

from keras_transformer.cli.options import AsJson, Quiet
from keras_transformer.cli.output import print_json, working

LARGEST_PORT = 65535


def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="SavedModel folder that `export` wrote", show_default=False)
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=LARGEST_PORT, help="of gRPC; 0: any free one")] = 8500,
    rest_port: Annotated[
        int, typer.Option("--rest-port", min=0, max=LARGEST_PORT, help="of REST; 0: any free one")
    ] = 8501,
    host: Annotated[
        str, typer.Option("--host", help="address to listen on; 0.0.0.0 lets every machine ask, without a password")
    ] = "127.0.0.1",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Answer requests as TensorFlow Serving does, over REST and gRPC, until Ctrl-C. For development alone.

    Clients that are written against it work unchanged with TensorFlow Serving, which is what production takes: the
    folder's SERVING.md has the command. This one serves the newest version of one model, each request by itself.

    The addresses are printed when it is ready, with --json as one object. Each request is a line on standard error,
    without its text, unless --quiet.
    """
    with working(quiet):
        from keras_transformer.model_server import ModelServer, ServedModel
        from keras_transformer.model_server.server import to_standard_error

        log = (lambda line: None) if quiet else to_standard_error
        server = ModelServer(ServedModel(folder), host=host, grpc_port=port, rest_port=rest_port, log=log)
    with server:
        model = server.model
        facts = {"name": model.name, "version": model.version, "grpc": f"{host}:{server.grpc_port}"}
        url = f"http://{host}:{server.rest_port}/v1/models/{model.name}"
        if as_json:
            print_json({**facts, "rest": url, "signatures": sorted(model.signatures)})
        else:
            print(f"{model.name} version {model.version}: {url}, gRPC at {facts['grpc']}; Ctrl-C stops it", flush=True)
        server.wait()
