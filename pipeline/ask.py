"""Ask questions about a video.

    python -m pipeline.ask holiday.mp4 "where did the red star go?"
    python -m pipeline.ask holiday.mp4 "how many stars came in?" "did a ring come in?" --at 12.5
    python -m pipeline.ask https://example.org/talk.mp4 "what is on the table?" --json
    python -m pipeline.ask holiday.mp4 "what is there?" --answerer studies/questions/models/joint --glimpses 16

Prints each question's likeliest answers with their probabilities, and the moments that it looked at, with their shares
of its attention. The video is decoded and embedded once for all questions. Takes the answerer that `make questions`
trains, in studies/questions/models/memory/, with the encoder and the decoder in models/.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.predict import Bars, clock, not_a_video, plain_name
from pipeline.process.command import parser
from pipeline.process.terminal import message, printable, printable_json
from pipeline.serving.arriving import is_address

if TYPE_CHECKING:  # torch, which takes seconds to load; wrong arguments are reported before that
    from pipeline.serving.video_answerer import Answered


def main() -> None:
    options = _options()
    try:
        if not is_address(options.video) and (problem := not_a_video(options.video)):
            raise ValueError(f"{options.video}: {problem}")
        found = ask(options)
    except (ValueError, OSError) as error:
        sys.exit(f"ask: {message(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        print(printable_json(json.dumps([as_json(one) for one in found], indent=2, ensure_ascii=False)))
        return
    for warning in dict.fromkeys(warning for one in found for warning in one.warnings):
        say(f"warning: {warning}")
    print("\n\n".join(map(as_text, found)))


def _options() -> argparse.Namespace:
    typed = parser("pipeline.ask", __doc__)
    typed.add_argument("video", metavar="VIDEO", help="a file, or an address")
    typed.add_argument("questions", metavar="QUESTION", nargs="+")
    typed.add_argument("--at", type=float, metavar="S", help="ask at this time: what comes later is not looked at")
    typed.add_argument("--answerer", type=Path, metavar="DIR", help="a reader of the study of questions")
    typed.add_argument("--glimpses", type=int, metavar="N", help="for an answerer of glimpses; default: 8")
    typed.add_argument("--json", action="store_true", help="print JSON instead of text")
    return typed.parse_args([plain_name(argument) for argument in sys.argv[1:]])


def ask(options: argparse.Namespace) -> "list[Answered]":
    from pipeline.serving.video_answerer import GLIMPSES, VideoAnswerer, check_question
    from pipeline.serving.video_frames import local_file

    for question in options.questions:
        check_question(question)
    say("loading the answerer")
    answerer = VideoAnswerer.load(options.answerer)
    say(printable(answerer.chooses))
    with (
        Bars(options.video) as watch,
        local_file(options.video, answerer.params.predict.model_dump(), watch) as file,
    ):
        seen = answerer.look(file, watch)
    glimpses = GLIMPSES if options.glimpses is None else options.glimpses
    return answerer.ask(seen, options.questions, at_s=options.at, glimpses=glimpses)


def as_text(one: "Answered") -> str:
    width = max(len(printable(answer)) for answer, _ in one.first)
    lines = [printable(one.question, 400)]
    lines += [f"{100 * probability:>6.1f} %  {printable(answer):<{width}}" for answer, probability in one.first]
    if not one.moments:
        return "\n".join([*lines, "it looked at no frame"])
    lines.append(f"it looked, of {one.frames} frames, mostly at")
    lines += [
        f"{100 * moment.share:>6.1f} %  {clock(moment.start_s)}"
        + (f" - {clock(moment.end_s)}" if moment.end_s > moment.start_s else "")
        for moment in one.moments
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_json(one: "Answered") -> dict[str, Any]:
    found = asdict(one)
    return {**found, "first": [{"answer": answer, "probability": p} for answer, p in one.first]}


def say(line: str) -> None:
    print(f"ask: {message(line)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
