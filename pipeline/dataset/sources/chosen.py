"""The annotation files and the source of videos that params.yaml names for a dataset."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipeline.dataset import media
from pipeline.dataset.annotations import SPLITS
from pipeline.dataset.sources import builtin
from pipeline.dataset.sources.coco import Coco, Pictures
from pipeline.dataset.sources.directory import Directory
from pipeline.dataset.sources.huggingface import Huggingface, Repository
from pipeline.dataset.sources.lmdb import Lmdb, is_lmdb
from pipeline.dataset.sources.subset import Source
from pipeline.dataset.sources.youtube import Youtube
from pipeline.params import DownloadParams, Params

Files = Mapping[str, list[Path]]  # the annotation files of every split
UNFINISHED = ".partial"  # the folder beside a dataset's media where downloads go on from where they broke off
DVC_EXPERIMENTS = "/.dvc/tmp/exps/"  # where --temp and --queue run


def annotation_files(own: DownloadParams, params: Params, out: Path, rendered: Path) -> Files:
    """The annotation files of every split; built-in ones are rendered, COCO's are unpacked.

    Args:
        own: the dataset's part of the section download.
        out: the dataset's folder.
        rendered: a folder for what is made here.

    Raises ValueError.
    """
    if own.source == "shapes":
        counts = {str(split): own.limit[split] or 0 for split in SPLITS}
        return builtin.render(rendered, own.format, counts=counts, seed=params.seed, **params.shapes.model_dump())
    if own.source == "coco":
        coco = Coco(out / "archives", **params.coco.model_dump())
        return {split: coco.captions(own.annotations[split], rendered / "captions") for split in SPLITS}
    files: Files = {
        split: [unzipped(Path(own.folder) / name, rendered / "captions") for name in own.annotations[split]]
        for split in SPLITS
    }
    absent = [path for paths in files.values() for path in paths if not path.exists()]
    if absent and not absent[0].is_absolute() and DVC_EXPERIMENTS in Path.cwd().as_posix():
        raise ValueError(
            f"{absent[0]}: not in this experiment's folder, which only has the files in git; give download.*.folder in "
            "params.yaml an absolute path"
        )
    return files


def unzipped(path: Path, folder: Path) -> Path:
    """The caption file or, where its path leads through a zip, a copy of that member below `folder`.

    Raises ValueError if the zip has no such member, or a damaged one.
    """
    if media.within(path) is None:
        return path
    folder = folder.joinpath(*path.parent.absolute().parts[1:])  # two zips may hold files of one name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with media.local(path) as member:
            return Path(shutil.copy(member, folder / path.name))
    except media.BadMember as error:
        raise ValueError(f"{path}: {error}") from None


def source_of(own: DownloadParams, params: Params, out: Path, rendered: Path, video_ids: list[str]) -> Source:
    """Where the videos come from; arguments as for `annotation_files`.

    Args:
        video_ids: of all videos that may be fetched.
    """
    videos, unfinished = out / "media", out / UNFINISHED
    match own.source:
        case "shapes":
            return Directory(videos, dict.fromkeys(SPLITS, rendered / builtin.MEDIA), move=True, name="shapes")
        case "directory":
            folders: dict[str, Path] = {
                split: Path(own.folder) / own.media[split] for split in SPLITS if own.annotations[split]
            }
            if stores := [folder for folder in folders.values() if is_lmdb(folder)]:
                if other := next((folder for folder in folders.values() if folder not in stores), None):
                    raise ValueError(f"{stores[0]} is an LMDB, {other} is none; download.*.media needs one kind")
                return Lmdb(videos, unfinished, folders)
            return Directory(videos, {split: Path(own.folder) / own.media[split] for split in SPLITS})
        case "youtube":
            return Youtube(videos, unfinished, **params.youtube.model_dump())
        case "huggingface":
            repository = Repository(**params.huggingface.model_dump())
            return Huggingface(repository, videos, unfinished, out / ".members", video_ids=video_ids)
        case "coco":
            names = [own.media[split] for split in SPLITS if own.limit[split] != 0]
            return Pictures(Coco(out / "archives", **params.coco.model_dump()), names, videos)
