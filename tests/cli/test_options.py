"""Options over all commands: one meaning each, the old forms, hostile values, and shell completion."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CommandResult
from emim.cli.main import build_parser, parse
from emim.cli.options import OPTIONS, Numbers, Real, Renamed, Whole, device, file_path, find_old_json, host_name, names

Command = Callable[..., CommandResult]

MOVED = {"model", "train", "predict", "scaling"}
"""Parts of `emim bench` that are scripts in benchmarks/ now."""


def walk(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that can be run, by its name."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield name, parser
    for action in inner:
        for word, command in action.choices.items():
            if not (name == "bench" and word in MOVED):
                yield from walk(command, f"{name} {word}".strip())


PARSER = build_parser()
COMMANDS = dict(walk(PARSER))


def kind_of(action: argparse.Action) -> tuple[object, ...]:
    """All that an option is, except its default and whether it must be given or may be repeated."""
    kind = type(action).__name__.replace("Append", "Store")
    choices = None if action.choices is None else tuple(action.choices)
    return kind, action.nargs, action.type, choices, action.metavar, tuple(action.option_strings)


def test_each_option_has_one_meaning() -> None:
    found = defaultdict(dict)
    for name, parser in COMMANDS.items():
        for action in parser._actions:
            for flag in action.option_strings:
                if action.help != argparse.SUPPRESS:
                    found[flag][name] = action
    for flag, by_command in found.items():
        if flag in OPTIONS:
            option = OPTIONS[flag]
            for name, action in by_command.items():
                assert str(action.help).startswith(option.meaning), (flag, name)
                assert action.type == option.settings.get("type"), (flag, name)
        elif flag.startswith("--") and flag != "--help":
            assert len(by_command) == 1, f"{flag} of {', '.join(by_command)} is not in the table of shared options"
        assert len({kind_of(action) for action in by_command.values()}) == 1, flag
    assert found["--clips"].keys() == {"test", "diagnose"}
    assert found["--size"].keys() == {"test", "diagnose"}


def test_every_command_has_json_and_output_and_no_old_name() -> None:
    for name, parser in COMMANDS.items():
        flags = {
            flag for action in parser._actions if action.help != argparse.SUPPRESS for flag in action.option_strings
        }
        assert {"--quiet", "--debug"} <= flags, name
        assert not {"--accelerator", "--out"} & flags, name
        if name not in ("train", "completion"):
            assert {"--json", "--output", "-o"} <= flags, name
        for action in parser._actions:
            assert action.help, (name, action.dest)


def test_help_lists_every_command_in_a_group_and_each_has_examples(emim_command: Command) -> None:
    listed = emim_command("--help")
    assert listed.status == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name.split()[0]}  ", listed.out, re.MULTILINE), name
    for name, parser in COMMANDS.items():
        assert f"\n  emim {name}" in f"\n{parser.epilog}", name
        for line in re.findall(r"^  emim ([^|&()>\n]*)", str(parser.epilog), re.MULTILINE):
            if name != "completion":
                parse(build_parser(), line.split())  # ends the test if an example is wrong


OLD_FORMS = [
    ("test m --data d --accelerator gpu", "--accelerator is now --device", {"device": "cuda"}),
    ("diagnose m --data d --accelerator cpu", "--accelerator is now --device", {"device": "cpu"}),
    (
        "test m --data d --json out.json --clips 2",
        "--json out.json is now --output out.json",
        {"output": Path("out.json")},
    ),
    (
        "test --json out.json m --data d",
        "--json out.json is now --output",
        {"output": Path("out.json"), "checkpoint": "m"},
    ),
    ("test m --data d --json=out.json", "--json out.json is now --output", {"output": Path("out.json"), "json": False}),
    ("diagnose m --json out --data d", "--json out is now --output out", {"output": Path("out"), "checkpoint": "m"}),
    ("doctor clips.csv --json out", "--json out is now --output out", {"output": Path("out"), "json": False}),
    (
        "doctor --json out clips.csv",
        "--json out is now --output out",
        {"output": Path("out"), "data": Path("clips.csv")},
    ),
    (
        "stream 0 --json lines.jsonl",
        "--json lines.jsonl is now --output",
        {"output": Path("lines.jsonl"), "json": False},
    ),
    ("stream 0 --json -", "--json - is now --json", {"json": True, "output": None, "source": "0"}),
    (
        "bench op --json out.json --quick",
        "--json out.json is now --output",
        {"output": Path("out.json"), "json": False},
    ),
    (
        "bench loader --data d --json out.json data.cache=true",
        "--json out.json is now --output",
        {"output": Path("out.json"), "overrides": ["data.cache=true"]},
    ),
    ("bench loader --data d --clips 4", "--clips is now --measure-clips", {"measure_clips": 4}),
    ("bench loader --data d --workers 0,2", "--workers is now --try-workers", {"try_workers": [0, 2]}),
    ("report run --clips 2", "--clips is now --show-clips", {"show_clips": 2}),
    ("visualize v -o o.mp4 --size 320", "--size is now --picture-size", {"picture_size": 320}),
    ("prepare ssv2 root --out data", "--out is now --output", {"output": Path("data")}),
    (
        "generate root --split a=1 --split b=2 --size 64",
        "--split is now --clips-per-class",
        {"clips_per_class": ["a=1", "b=2"], "frame_size": 64, "output": Path("root")},
    ),
]


@pytest.mark.parametrize(("line", "warning", "expected"), OLD_FORMS, ids=[line for line, _, _ in OLD_FORMS])
def test_old_forms_work_with_a_warning(line: str, warning: str, expected: dict[str, object]) -> None:
    args = parse(build_parser(), line.split())
    assert {name: getattr(args, name) for name in expected} == expected
    assert warning in args.warnings[0]
    assert "until version 0.3" in args.warnings[0]


def test_every_renamed_option_is_tried_above() -> None:
    renamed = {
        (name, flag)
        for name, parser in COMMANDS.items()
        for action in parser._actions
        if isinstance(action, Renamed)
        for flag in action.option_strings
    }
    assert renamed
    for name, flag in renamed:
        assert any(line.startswith(f"{name} ") and f" {flag} " in line for line, _, _ in OLD_FORMS), (name, flag)


@pytest.mark.parametrize(
    "line",
    [
        "test m --data d --json",
        "test --json m --data d",
        "predict --json clip.mp4",
        "doctor --json clips.csv",
        "stream --json 0",
    ],
)
def test_the_flag_before_another_argument_is_no_old_form(line: str) -> None:
    args = parse(build_parser(), line.split())
    assert (args.json, args.output, args.warnings) == (True, None, ())


def test_an_old_form_is_told_on_standard_error_and_still_writes(
    emim_command: Command, generated: Path, tmp_path: Path
) -> None:
    facts = tmp_path / "facts.json"
    result = emim_command("doctor", generated / "test" / "up", "--json", facts, "--workers", 1)
    assert result.status == 0, result.err
    assert result.err.startswith("warning: emim doctor: --json")
    assert "2 videos" in result.out
    assert json.loads(facts.read_text())["errors"] == 0


def test_the_model_is_given_once(emim_command: Command) -> None:
    for words in (("m",), ("--checkpoint", "m")):
        assert parse(build_parser(), ["test", *words, "--data", "d"]).checkpoint == "m"
    assert emim_command("test", "--data", "d").status == 2
    both = emim_command("test", "m", "--checkpoint", "n", "--data", "d")
    assert both.status == 2
    assert "not allowed with" in both.err


# Values that nobody means, and that the system or Python refuses in ways of their own.
HOSTILE = [
    "9" * 5000,
    "-" + "9" * 5000,
    "1e400",
    "nan",
    "-inf",
    "a" * 300,
    "x/" * 3000,
    "a\0b",
    "",
    "０",
    "1_0",
    "\udcff",
    "--",
]


def exit_code(words: list[str]) -> object:
    """The status that the parser exits with; None if the words are right."""
    try:
        parse(PARSER, words)
    except SystemExit as stop:
        return stop.code
    return None


@pytest.mark.parametrize("name", COMMANDS)
def test_hostile_values_are_usage_errors_in_one_short_line(
    name: str, emim_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of every command, with every hostile value: parsed, or one line that names the option."""
    monkeypatch.chdir(tmp_path)
    for action in COMMANDS[name]._actions:
        if action.nargs == 0:
            continue
        for value in HOSTILE:
            flag = action.option_strings[-1:] if action.option_strings else []
            assert exit_code([*name.split(), *flag, value]) in (None, 2)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(COMMANDS)),
    st.lists(
        st.one_of(
            st.sampled_from(sorted({flag for parser in COMMANDS.values() for flag in parser._option_string_actions})),
            st.sampled_from(HOSTILE),
            st.text(max_size=12),
            st.integers().map(str),
            st.floats().map(str),
        ),
        max_size=6,
    ),
)
def test_any_words_are_parsed_or_a_usage_error(name: str, words: list[str]) -> None:
    assert exit_code([*name.split(), *words]) in (None, 0, 2)


def test_a_long_value_is_shortened_in_the_message(emim_command: Command) -> None:
    for words in (
        ("predict", "x.mp4", "--topk", "9" * 5000),
        ("predict", "a" * 5000),
        ("stream", "b" * 5000),
        ("train", "c" * 5000),
        ("test", "d" * 5000, "--data", "d"),
        ("generate", "clips", "--seed", "1" * 20),
        ("models", "e" * 5000),
    ):
        result = emim_command(*words)
        assert result.status == 2
        assert len(result.err.splitlines()[-1]) < 600
        assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (Whole(0, 9), "9", 9),
        (Whole(0, 9), " 7 ", 7),
        (Whole(0, 9), "10", "must be at most 9, got '10'"),
        (Whole(1, 9), "0", "must be at least 1, got '0'"),
        (Whole(-3, 9), "-4", "must be at least -3, got '-4'"),
        (Whole(1, 9), "0" * 5000 + "5", 5),
        (Whole(1, 9), "-" + "9" * 5000, "must be at least 1"),
        (Whole(1, 9), "9" * 5000, "must be at most 9"),
        (Whole(1, 9), "two", "must be a whole number from 1 to 9, got 'two'"),
        (Whole(1, 9), "1.0", "must be a whole number"),
        (Real(0, 1), "0.5", 0.5),
        (Real(0, 1), "nan", "must be a number from 0 to 1, got 'nan'"),
        (Real(0, 1, above=True), "0", "must be a number above 0, at most 1, got '0'"),
        (Real(0, 1), "1e400", "must be a number from 0 to 1"),
        (Numbers(1, 8), "1,2", [1, 2]),
        (Numbers(1, 8), "1,,2", "must be whole numbers of at least 1"),
        (device, "cuda:3", "cuda:3"),
        (host_name, "::1", "::1"),
        (host_name, "h" * 70, "cannot be a host name"),
        (host_name, "é" * 70 + ".example", "cannot be a host name"),
        (names, "n" * 600, "must be at most 500 characters"),
        (device, "cuda:x", "must be auto, cpu, cuda or cuda:N, got 'cuda:x'"),
        (file_path, "a/b", Path("a/b")),
        (file_path, "a" * 300, "file name too long (300 characters)"),
        (file_path, "a\0b", "cannot hold a NUL byte"),
        (file_path, "", "a path is needed"),
    ],
)
def test_types_of_values(kind: Callable[[str], object], text: str, expected: object) -> None:
    if not isinstance(expected, str) or expected == text:
        assert kind(text) == expected
        return
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(expected)):
        kind(text)


def test_no_old_form_where_an_option_follows() -> None:
    assert find_old_json(["test", "--json", "--data", "d"]) is None
    assert find_old_json(["test", "--output", "--json"]) is None


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_emim
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_names_and_files(emim_command: Command, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(emim_command("completion", "bash").out)
    (tmp_path / "clip one.mp4").touch()
    (tmp_path / "clips").mkdir()

    def complete(line: str) -> list[str]:
        words = ["bash", "-c", COMPLETE, "bash", str(script), *line.split(" ")]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split("\n")[:-1]

    assert set(complete("emim ")) == {name.split()[0] for name in COMMANDS}
    assert complete("emim te") == ["test"]
    assert complete("emim bench lo") == ["loader"]
    assert complete("emim test --pre") == ["--precision"]
    assert complete("emim test --precision bf") == ["bf16-mixed"]
    assert complete("emim predict x.mp4 --checkpoint bund") == ["bundled"]
    assert "ssv2_s16_k400" in complete("emim train ssv")
    assert sorted(complete("emim predict cl")) == ["clip one.mp4", "clips"]
    assert complete("emim report cl") == ["clips"]
    assert "--accelerator" not in complete("emim test --")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completion_scripts_name_every_command_and_start_no_python(emim_command: Command, shell: str) -> None:
    result = emim_command("completion", shell)
    assert result.status == 0
    assert all(name.split()[0] in result.out for name in COMMANDS)
    assert ("ssv2_s16_k400" in result.out) == (shell != "tcsh")  # there either names or files
    assert "python" not in result.out.lower()
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=result.out, text=True, check=True)


def test_completion_needs_no_heavy_import_and_names_the_recipes() -> None:
    from emim.cli.completion import recipe_names
    from emim.training.recipe import recipe_folder

    assert recipe_names() == sorted(file.stem for file in recipe_folder().glob("*.yaml"))
    code = (
        "import sys; from emim.cli.completion import script; from emim.cli.main import build_parser; "
        "script('bash', build_parser()); "
        "assert not {'torch', 'av', 'lightning', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_quiet_leaves_warnings_and_results(emim_command: Command, generated: Path) -> None:
    words = ("predict", generated / "test" / "up", "nowhere.mp4", "--device", "cpu")
    loud, quiet = emim_command(*words), emim_command(*words, "--quiet")
    assert loud.out == quiet.out
    assert "3 videos in" in loud.err
    assert quiet.err.startswith("emim predict: nowhere.mp4: ")
    assert quiet.err.count("\n") == 1


def test_json_is_all_of_standard_output(
    emim_command: Command, generated: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command with --json prints JSON and nothing else; where --output is the result, the file says the same."""
    monkeypatch.chdir(tmp_path)
    model, clip = trained / "model.safetensors", next((generated / "test" / "up").iterdir())
    shutil.copytree(trained, "run")
    here = ("--device", "cpu", "--workers", 0)
    keys = {
        ("test", model, "--data", generated, *here, "-o", "test.json"): {"top1", "per_class", "checkpoint"},
        ("diagnose", model, "--data", generated, *here, "-o", "diagnose.json"): {"conditions", "classes"},
        ("doctor", generated / "test" / "up", "--workers", 1, "-o", "doctor.json"): {"errors", "problems"},
        ("models", "-o", "models.json"): {"networks", "bundled"},
        ("config", "demo", "-o", "config.json"): {"optim.lr", "model.name"},
        ("report", "run", "--data", generated, *here, "--no-diagnosis"): {"report", "test", "missing"},
        ("visualize", clip, "-o", "motion.gif", "--device", "cpu"): {"frames", "largest_displacement", "prediction"},
        ("generate", "clips", "--clips-per-class", "a=1", "--frames", 2, "--workers", 1): {"folder", "splits"},
        ("prepare", "folder", generated, "-o", "prepared"): {"splits"},
        (
            "bench", "op", "--quick", "--frames", 2, "--height", 4, "--width", 4, "--heads", 1, "--head-width", 8,
            "--peers", "unfold", "--repeats", 1, "--warmup", 0, "-o", "op.json",
        ): {"rows", "problem"},
        (
            "bench", "loader", "--data", generated, "--measure-clips", 4, "--try-workers", 0, "--repeats", 1,
            "-o", "loader.json",
        ): {"rates", "verdict"},
    }  # fmt: skip
    for words, expected in keys.items():
        result = emim_command(*words, "--json")
        assert result.status == 0, result.err
        content = json.loads(result.out)
        assert expected <= content.keys(), words[0]
        target = Path(str(words[words.index("-o") + 1])) if "-o" in words else None
        if target is not None and target.suffix == ".json":
            assert json.loads(target.read_text()) == content
    lines = emim_command("predict", generated / "test" / "up", "--device", "cpu", "--json", "-o", "lines.jsonl")
    assert [json.loads(line)["path"] for line in lines.out.splitlines()]
    assert Path("lines.jsonl").read_text() == lines.out


@pytest.mark.parametrize("where", ["folder", "file/below.json"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    emim_command: Command, generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    for words in (
        ("test", "bundled", "--data", generated),
        ("diagnose", "bundled", "--data", generated),
        ("doctor", generated / "test.csv"),
        ("predict", generated / "test" / "up"),
        ("stream", next((generated / "test" / "up").iterdir())),
        ("bench", "op", "--quick"),
        ("models",),
        ("config",),
    ):
        result = emim_command(*words, "-o", where)
        assert result.status == 1, words
        assert result.out == ""
        assert f"{where}: cannot be written" in result.err.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(emim_command: Command, tmp_path: Path) -> None:
    result = emim_command("models", "-o", "/dev/full")
    assert result.status == 1
    assert result.err == "emim models: /dev/full: cannot be written (No space left on device)\n"
    assert Path("/dev/full").is_char_device()
    code = f"{sys.executable} -m emim completion bash > /dev/full"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "emim completion: standard output: No space left on device\n")


def test_json_goes_into_pipes_and_through_links_and_leaves_devices_alone(emim_command: Command, tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert emim_command("models", "-o", link).status == 0
    assert link.is_symlink()
    assert "networks" in json.loads(target.read_text())
    assert emim_command("models", "-o", "/dev/null").status == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("bench", "op", "--quick", "--frames", "100000", "--heads", "1000"), "not enough memory"),
        (("predict", "\udcff.mp4"), "no such file"),
        (("generate", "clips", "--clips-per-class", f"{'a' * 300}=1"), "file name too long"),
        (("generate", "clips", "--clips-per-class", f"a={'9' * 5000}"), "must be SPLIT=CLIPS"),
        (("train", "demo", f"trainer.epochs={'9' * 5000}"), "trainer.epochs"),
        (("train", "demo", "optim.lr=" + "[" * 5000), "optim.lr"),
        (("train", "demo", f"data.path={'a' * 300}"), "data.path"),
        (("config", "demo", "a\0b=1"), "unknown key"),
        (("stream", "rtsp://["), "cannot be opened"),
        (("stream", "x://\0"), "unknown kind of address"),
        (("doctor", "clips.csv", "--quarantine", "clips.csv/x.csv"), "a part of its path is a file"),
    ],
)
def test_hostile_values_that_a_command_finds_are_one_line(
    emim_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips.csv").write_text("path,label\na.mp4,x\n")
    result = emim_command(*words)
    assert result.status == 1
    assert result.out == ""
    last = result.err.splitlines()[-1]
    assert message in last
    assert last.startswith(f"emim {words[0]}: ")
    assert "unexpected" not in last
    assert len(last) < 1000


SHOW = """
import sys
from emim.cli.console import print_table, progress_bar

with progress_bar("writing clips", 2) as progress:
    progress(1, 2)
print_table("Results", ("class", "accuracy"), [("left", "90.0 %")])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_no_color_and_no_escapes_outside_a_terminal() -> None:
    import pty

    for no_color in (False, True):
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        environment.pop("NO_COLOR", None)
        if no_color:
            environment["NO_COLOR"] = "1"
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", SHOW], stdout=subprocess.PIPE, stderr=theirs, env=environment
        ) as process:
            os.close(theirs)
            shown = b""
            try:
                while part := os.read(ours, 65536):
                    shown += part
            except OSError:  # the end of a pseudo terminal whose other side was closed
                pass
            assert process.stdout is not None
            out = process.stdout.read()
        os.close(ours)
        assert process.returncode == 0
        assert b"writing clips" in shown
        assert bool(re.search(rb"\x1b\[[0-9;]*(3[0-8]|9[0-7])", shown)) != no_color
        assert b"90.0 %" in out
        assert b"\x1b" not in out
