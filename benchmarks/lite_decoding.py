"""What a token costs in a `.tflite` file: beside Keras' cached loop, CTranslate2 and llama.cpp, at each position.

Command: python benchmarks/lite_decoding.py --ctranslate2-python PATH --llama-python PATH
                                          (the machine must do nothing else; 10 minutes)
         python benchmarks/lite_decoding.py --quick ...        tiny models, writes nothing: does it still run?
Needs:   each best in an environment of its own; what isn't installed is reported as absent.
         CTranslate2: pip install ctranslate2 safetensors
         llama.cpp: pip install gguf safetensors
                    npm install --prefix ENVIRONMENT @node-llama-cpp/linux-x64@3.22.1        compiled already
Writes:  benchmarks/results/lite_decoding.md

The weights, the rounds and the clock are those of `decode.py`: the same random decoder for all, one process each, one
works at a time. A file has room for a number of tokens, which the graph looks at in each step, masked where nothing is
yet; so there is a file for each of two rooms. That all compute the same is seen in their logits behind the longest
prompt.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from decode import FULL as DECODING
from decode import OURS, TINY, Results, Task, at_position, curve_table, load, measure, start, table, tell
from peers.decoding_weights import DECODER
from peers.process import Peer
from scheduling import command_prefix

from keras_transformer import benchmark

RESULT = Path(__file__).parent / "results" / "lite_decoding.md"
COMMAND = "python benchmarks/lite_decoding.py --ctranslate2-python PATH --llama-python PATH"
ROOMS = {2048: (16, 64, 256, 512, 1024, 2015), 256: (16, 64, 128, 223)}
QUICK_ROOMS = {64: (8, 31), 48: (8, 15)}
Way = tuple[str, ...]


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    size, rooms, rounds = (TINY, QUICK_ROOMS, 2) if options.quick else (DECODING.size, ROOMS, DECODING.curve_rounds)
    running: dict[Way, Peer] = {}
    sections, versions, absent = [], {}, {}
    for room, positions in rooms.items():
        wanted = ways(room)
        for way in [way for way in running if way not in wanted.values()]:
            running.pop(way).close()
        new = {way: start(name, way, options) for name, way in wanted.items() if way not in running}
        running |= new
        absent |= {peer.name: peer.absent for peer in new.values() if peer.absent}
        parameters, failed = load([peer for peer in new.values() if not peer.absent], DECODER, size)
        absent |= failed
        peers = [running[way] for way in wanted.values() if not running[way].absent]
        versions |= {name: version for peer in peers for name, version in peer.versions.items()}
        sections += measured(peers, room, positions, rounds)
    for peer in running.values():
        peer.close()
    about = f"A decoder of {parameters:,} weights: "
    about += ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in size.items())
    machine = ", ".join(f"{name} {value}" for name, value in (benchmark.machine() | versions).items())
    lines = [
        "# What a token costs in a `.tflite` file",
        f"Command: `{command_prefix()}{COMMAND}`",
        f"Machine: {machine}, threads {options.threads}",
        f"{about}. One text, greedy; {rounds} rounds, interleaved. {WAYS}",
        "Absent: " + ("; ".join(f"{name} ({why})" for name, why in absent.items()) or "none") + ".",
        *sections,
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def ways(room: int) -> dict[str, Way]:
    """Name in the tables -> option that has its interpreter, module, words."""
    return {
        OURS: ("python", "decoding_ours", "xla"),
        f"{OURS}, no XLA": ("python", "decoding_ours", "graph"),
        "TFLite float32": ("python", "decoding_lite", "none", str(room)),
        "TFLite int8 weights": ("python", "decoding_lite", "dynamic", str(room)),
        "CTranslate2": ("ctranslate2_python", "decoding_ctranslate2", "float32"),
        "CTranslate2, int8": ("ctranslate2_python", "decoding_ctranslate2", "int8"),
        "llama.cpp": ("llama_python", "decoding_llama", "float32", str(room)),
        "llama.cpp, Q8_0": ("llama_python", "decoding_llama", "int8", str(room)),
    }


WAYS = (
    f"The ways of {OURS!r} are Keras' cached loop, compiled by XLA or not, in float32; the files hold the same model. "
    '"int8 weights" is `--quantize dynamic`; CTranslate2\'s int8 has weights of the same. llama.cpp reads the same '
    "model as a GGUF file of GPT-2's layout, with float32 keys and values; Q8_0 is its int8, with float16 keys and "
    "values and flash attention, its defaults. It takes GELU from a table of float16 numbers, whatever the weights "
    "are: so far its float32 logits are from ours."
)


def measured(peers: Sequence[Peer], room: int, positions: tuple[int, ...], rounds: int) -> Iterator[str]:
    """The tables of files with one room."""
    task = Task(DECODER, 1, 1, min(positions), min(positions))
    tell(f"room for {room}: {task.title}")
    answers = measure(peers, task, rounds)
    curve: Results = {}
    for position in positions:
        tell(f"room for {room}, position {position}")
        curve[position] = at_position(peers, position, rounds)
    yield f"## Files with room for {room:,} tokens"
    yield (
        f"Milliseconds a token behind so many others, mean over 32; median of {rounds} rounds. Of files and llama.cpp "
        "the tokens alone are timed, of the others two runs with their prompts: behind a long prompt their difference "
        "is uncertain by some milliseconds."
    )
    yield curve_table(curve)
    yield f"Tokens a second with a prompt of {task.prompt}, {task.new_tokens} new tokens, prompt included:"
    yield table(task, answers)
    yield f"Logits behind a prompt of {max(positions):,}, beside those of Keras' model without a cache:"
    yield logits_table(peers, max(positions))


def logits_table(peers: Sequence[Peer], position: int) -> str:
    """How far the logits of each way are from ours at most, in standard deviations of ours."""
    ids = np.random.default_rng(position).integers(3, 900, position).tolist()
    rows = ["| way | largest difference / standard deviation | same likeliest token |", "|---|---:|---|"]
    ours = np.array(peers[0].ask("logits", token_ids=ids)["logits"])
    for peer in peers[1:]:
        try:
            found = np.array(peer.ask("logits", token_ids=ids)["logits"])
        except RuntimeError as error:
            rows.append(f"| {peer.name} | {error} | |")
            continue
        same = "yes" if found.argmax() == ours.argmax() else "no"
        rows.append(f"| {peer.name} | {np.abs(found - ours).max() / ours.std():.1g} | {same} |")
    return "\n".join(rows)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ctranslate2-python", default=sys.executable, help="interpreter that has ctranslate2")
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter of the environment with llama.cpp")
    parser.add_argument("--threads", type=int, default=benchmark.machine()["cores"], help="of each way")
    parser.add_argument("--quick", action="store_true", help="tiny models; prints and writes nothing")
    options = parser.parse_args()
    options.python = sys.executable
    return options


if __name__ == "__main__":
    main()
