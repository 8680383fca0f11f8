"""What a token costs in a `.tflite` file: beside Keras' cached loop and CTranslate2, at each position.

Command: python benchmarks/lite_decoding.py --ctranslate2-python PATH    (the machine must do nothing else; 10 minutes)
         python benchmarks/lite_decoding.py --quick ...        tiny models, writes nothing: does it still run?
Needs:   CTranslate2: pip install ctranslate2 safetensors, best in an environment of its own. If it isn't installed it
         is reported as absent.
Writes:  benchmarks/results/lite_decoding.md

The weights, the rounds and the clock are those of `decode.py`: the same random decoder for all, one process each, one
works at a time. A file has room for a number of tokens, which the graph looks at in each step, masked where nothing is
yet; so there is a file for each of two rooms.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from decode import FULL as DECODING
from decode import OURS, TINY, Results, Task, at_position, curve_table, load, measure, start, table, tell
from peers.decoding_weights import DECODER
from peers.process import Peer
from scheduling import command_prefix

from keras_transformer import benchmark

RESULT = Path(__file__).parent / "results" / "lite_decoding.md"
ROOMS = {2048: (16, 64, 256, 512, 1024, 2015), 256: (16, 64, 128, 223)}
QUICK_ROOMS = {64: (8, 31), 48: (8, 15)}
FORMATS = {"TFLite float32": "none", "TFLite int8 weights": "dynamic"}


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    size, rooms, rounds = (TINY, QUICK_ROOMS, 2) if options.quick else (DECODING.size, ROOMS, DECODING.curve_rounds)
    sections, versions, absent = [], {}, {}
    for room, positions in rooms.items():
        ways = {
            OURS: ("python", "decoding_ours", "xla"),
            f"{OURS}, no XLA": ("python", "decoding_ours", "graph"),
            **{name: ("python", "decoding_lite", form, str(room)) for name, form in FORMATS.items()},
            "CTranslate2": ("ctranslate2_python", "decoding_ctranslate2", "float32"),
            "CTranslate2, int8": ("ctranslate2_python", "decoding_ctranslate2", "int8"),
        }
        started = [start(name, way, options) for name, way in ways.items()]
        absent |= {peer.name: peer.absent for peer in started if peer.absent}
        peers = [peer for peer in started if not peer.absent]
        parameters, failed = load(peers, DECODER, size)
        absent |= failed
        sections += measured(peers, room, positions, rounds)
        versions |= {name: version for peer in peers for name, version in peer.versions.items()}
        for peer in started:
            peer.close()
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in size.items())
    machine = ", ".join(f"{name} {value}" for name, value in (benchmark.machine() | versions).items())
    lines = [
        "# What a token costs in a `.tflite` file",
        f"Command: `{command_prefix()}python benchmarks/lite_decoding.py --ctranslate2-python PATH`",
        f"Machine: {machine}, threads {options.threads}",
        f"A decoder of {parameters:,} weights: {about}. One text, greedy; {rounds} rounds, interleaved. The ways of "
        f"{OURS!r} are Keras' cached loop, compiled by XLA or not, in float32; the files hold the same model. \"int8 "
        "weights\" is `--quantize dynamic`; CTranslate2's int8 has weights of the same.",
        "Absent: " + ("; ".join(f"{name} ({why})" for name, why in absent.items()) or "none") + ".",
        *sections,
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def measured(peers: list[Peer], room: int, positions: tuple[int, ...], rounds: int) -> Iterator[str]:
    """The tables of files with one room."""
    task = Task(DECODER, 1, 1, min(positions), min(positions))
    tell(f"room for {room}: {task.title}")
    answers = measure(peers, task, rounds)
    curve: Results = {}
    for position in positions:
        tell(f"room for {room}, position {position}")
        curve[position] = at_position(peers, position, rounds)
    yield f"## Files with room for {room:,} tokens"
    yield f"Milliseconds a token behind so many others, mean over 32; median of {rounds} rounds."
    yield curve_table(curve)
    yield f"Tokens a second with a prompt of {task.prompt}, {task.new_tokens} new tokens, prompt included:"
    yield table(task, answers)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctranslate2-python", default=sys.executable, help="interpreter that has ctranslate2")
    parser.add_argument("--threads", type=int, default=benchmark.machine()["cores"], help="of each way")
    parser.add_argument("--quick", action="store_true", help="tiny models; prints and writes nothing")
    options = parser.parse_args()
    options.python = sys.executable
    return options


if __name__ == "__main__":
    main()
