"""Gather questions about the videos, and make the list of answers that a model chooses from.

Reads the section ask of studies/questions/params.yaml; of the built-in videos data/videos/annotations/scenes.json, else
the files that it names; and which videos there are, data/*/embeddings/. Writes data/questions/: questions.parquet,
ans2label.json (of the training questions alone), dropped.json (how many were dropped, by reason).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.dataset.annotations import short
from pipeline.dataset.questions.formats import equal_options, read_questions, unique_over_splits
from pipeline.dataset.questions.question import Question, to_table
from pipeline.dataset.shapes.questions import picture_questions, video_questions
from pipeline.features.embeddings import VideoEmbeddings
from pipeline.files import strict_json
from pipeline.files.aside import aside, write_text
from pipeline.scoring.answer_files import read_answer_list
from stages import run
from studies.questions.settings import ANSWER_LIST, DROPPED, QUESTIONS, SCENES, Ask, load_study
from studies.questions.videos import read_videos, rows_there

PICTURES = Path("data/pictures/segments.parquet")
END_TOLERANCE_S = 1.0  # a container may promise more than its last frame
PREFIXES = ("", "v_", "video")  # of a video's id here, before what question files call it


def main() -> None:
    ask = load_study().ask
    unique = unique_over_splits(questions_of(ask))
    there = rows_there()
    known = {resolved(question.video_id, there) for question in unique} - {None}
    ends = end_of(read_videos([video for video in known if video and there[video]]))
    kept, dropped = usable(unique, there, ends)
    if not kept:
        raise ValueError(f"none of {len(unique)} questions can be used: {reasons(dropped)}")
    answers = answer_list(ask, kept)
    later = [one for one in kept if one.split != "train" and one.task == "open" and one.answers]
    outside = [one for one in later if not set(one.answers) & set(answers)]
    if later and len(outside) == len(later):
        raise ValueError(
            f"none of {len(later)} open questions of val and test has a right answer in the list of {len(answers)} "
            f"({ask.list_file or 'of the training questions'}), which begins with "
            f"{', '.join(map(repr, answers[:3]))}; the first of them wants {outside[0].answers[0]!r}: "
            "ask.list_file seems to be another dataset's"
        )
    QUESTIONS.parent.mkdir(parents=True, exist_ok=True)
    with aside(QUESTIONS) as written:
        pq.write_table(to_table(kept), written)
    write_text(ANSWER_LIST, json.dumps({answer: label for label, answer in enumerate(answers)}, indent=1) + "\n")
    counts_of = {reason: len(own) for reason, own in sorted(dropped.items())}
    write_text(DROPPED, json.dumps({"asked": len(unique), "kept": len(kept), "dropped": counts_of}, indent=1) + "\n")
    if same := equal_options(kept):
        print(f"ask: {len(same)} questions have equal options, the first {same[0].question_id!r}; they are kept")
    if outside:
        print(
            f"ask: {len(outside)} of {len(later)} open questions of val and test have no right answer in the list: no "
            "model can answer them right"
        )
    if late := [one for one in kept if one.end_s is not None and one.end_s > ends[one.video_id] + END_TOLERANCE_S]:
        print(
            f"ask: {len(late)} questions end after their video, the first {late[0].question_id!r} at "
            f"{late[0].end_s:g} s; they are asked at the video's end"
        )
    counts = Counter(one.split for one in kept)
    print(
        f"ask: {counts['train']} training, {counts['val']} validation and {counts['test']} test questions, "
        f"{len(answers)} answers in the list; dropped: {reasons(dropped) or 'none'}"
    )


def questions_of(ask: Ask) -> list[Question]:
    """Of all splits. ValueError where there are none, or where training questions have no answers."""
    if ask.source == "shapes":
        if not SCENES.is_file():
            raise ValueError(f"no {SCENES}: source shapes asks about the built-in videos; set ask.source: files")
        counts = {str(split): count for split, count in ask.per_video.items()}
        found = video_questions(strict_json.load(SCENES), per_video=counts, seed=0)
        if ask.pictures:
            rows = pq.read_table(PICTURES, columns=["video_id", "split", "captions"]).to_pylist()
            found += picture_questions({row["video_id"]: (row["split"], row["captions"]) for row in rows}, seed=0)
        return found
    found = []
    for split, names in ask.files.items():
        if names:
            found += read_questions([Path(name) for name in names], split=split)
    if hidden := [one for one in found if one.split == "train" and not one.answers and not one.votes]:
        raise ValueError(f"{len(hidden)} training questions have no answer, the first {hidden[0].question_id!r}")
    return found


def resolved(video_id: str, there: Mapping[str, int]) -> str | None:
    """The id of that video here, if it is here: question files leave prefixes out."""
    return next((name for prefix in PREFIXES if (name := prefix + video_id) in there), None)


def end_of(videos: Mapping[str, VideoEmbeddings]) -> dict[str, float]:
    """About: when each video's last frame begins."""
    return {video_id: float(video.timestamps[len(video.timestamps) - 1 :][0]) for video_id, video in videos.items()}


def usable(
    questions: Sequence[Question], there: Mapping[str, int], ends: Mapping[str, float]
) -> tuple[list[Question], dict[str, list[Question]]]:
    """Those whose video has frames in what may be seen, by the videos' ids here; and those dropped, by reason."""
    kept, dropped = [], defaultdict[str, list[Question]](list)
    for question in questions:
        video = resolved(question.video_id, there)
        if video is None:
            dropped["the video is not there"].append(question)
        elif not there[video]:
            dropped["the video has no frames"].append(question)
        elif question.start_s > ends[video]:
            dropped["begins past the video's end"].append(question)
        else:
            kept.append(replace(question, video_id=video))
    return kept, dropped


def answer_list(ask: Ask, questions: Sequence[Question]) -> list[str]:
    """By label. Equally frequent answers by the alphabet."""
    if ask.list_file:
        return read_answer_list(Path(ask.list_file))
    counts: Counter[str] = Counter()
    for one in questions:
        if one.split == "train" and one.task != "choice":
            for answer, score in zip(one.answers, one.scores, strict=True):
                counts[answer] += score  # type: ignore[assignment]
    return sorted(sorted(counts), key=lambda answer: -counts[answer])[: ask.list_size]


def reasons(dropped: Mapping[str, Sequence[Question]]) -> str:
    """The counts, and of each reason the first question."""
    return ", ".join(
        f"{len(own)} ({reason}; the first is {short(own[0].question_id)} about {short(own[0].video_id)})"
        for reason, own in sorted(dropped.items())
    )


if __name__ == "__main__":
    run(kept=None)
