"""What the fuzzers keep, replayed without them: the corpus, every input that once broke something, planted bugs."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from fuzz import mutate
from fuzz.oracle import ViolationError
from fuzz.planted import BUGS, plant
from fuzz.targets import HERE, TARGETS, decoder, inputs
from transport.errors import BadValueError, RemoteError
from transport.wire import Expected, Schema, decode

GOLDEN = Path(__file__).parent / "golden"
KEPT = [(name, path) for kind in ("corpus", "regressions") for name in TARGETS for path in inputs(kind, name)]


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[path.relative_to(HERE).as_posix() for _, path in KEPT])
@pytest.mark.filterwarnings("ignore:No key type:UserWarning", "ignore::SyntaxWarning")
def test_a_kept_input_breaks_nothing(tmp_path: Path, name: str, path: Path) -> None:
    """It is refused in one line, or what was read is what its description allows."""
    TARGETS[name].run(path.read_bytes(), tmp_path)


def test_the_kept_inputs_are_few_and_small() -> None:
    """Every target has some, and nobody minds them in a checkout."""
    assert {name for name, _ in KEPT} == set(TARGETS)
    assert len(KEPT) <= 200
    assert sum(path.stat().st_size for _, path in KEPT) < 200_000


def blindly(data: bytes, max_size: int, rng: random.Random) -> bytes:
    """One byte overwritten, taken out or put in: what stands here for the fuzzer's own mutation."""
    place = rng.randrange(len(data) + 1)
    return (data[:place] + rng.randbytes(rng.randrange(2)) + data[place + rng.randrange(2) :])[:max_size]


def executions_until_found(run: object, seed: int, limit: int) -> int | None:
    """How many mutated golden frames it takes until one breaks the target."""
    assert callable(run)
    rng = random.Random(seed)
    frames = [path.read_bytes() for path in sorted(GOLDEN.glob("*.frame"))]
    for count in range(1, limit + 1):
        data = mutate.frame(rng.choice(frames), 4400, rng, lambda each, size: blindly(each, size, rng))
        try:
            run(data, Path())
        except (ViolationError, ValueError):
            return count
    return None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_within_20000_executions(name: str) -> None:
    """By the same mutations and the same oracle as the fuzzer's, without its guidance; the seed makes it repeatable."""
    assert executions_until_found(decoder(plant(name)), seed=1, limit=20_000) is not None


def test_the_right_decoder_outlasts_what_finds_the_planted_bugs() -> None:
    """Else the oracle would be wrong, not the decoder."""
    assert executions_until_found(decoder(), seed=1, limit=20_000) is None


def test_frames_are_changed_behind_their_digest_too() -> None:
    """Of 300, more than 30 have another payload and reach its numbers; of blind changes none ever does."""
    frame = (GOLDEN / "float32.frame").read_bytes()
    schema = Schema("tiny", (("weight", (2, 3)), ("bias", (1,)), ("variance", (2,))), frozenset({"variance"}))
    rng = random.Random(1)
    changed = [
        mutate.frame(frame, 4400, rng, lambda each, size: blindly(each, size, rng)) for _ in range(300)
    ]
    reached = 0
    for data in changed:
        with contextlib.suppress(RemoteError):
            try:
                decode(data, Expected("paper-ring", 3, schema))
            except BadValueError:
                reached += 1
            else:
                reached += data[-36:] != frame[-36:]
    assert reached > 30


def test_a_bug_that_cannot_be_planted_any_more_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the decoder's text has moved on, the list must move with it."""
    monkeypatch.setitem(BUGS, "gone", ("no such line", ""))
    with pytest.raises(LookupError, match="another place"):
        plant("gone")
