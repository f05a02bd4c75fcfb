"""The wheel, built through the sdist as it would be released, works where the checkout is not."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "layerstore" / "web"


def run(*arguments: object, **options: object) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **options,  # type: ignore[call-overload]  # only cwd is given
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def copy_of_the_checkout(target: Path) -> Path:
    """Copy what git knows or would add: a wheel must not depend on what else lies in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        names = [
            str(path.relative_to(ROOT))
            for path in ROOT.rglob("*")
            # Not what other tests write at this moment.
            if path.is_file() and not {".venv", "__pycache__", ".hypothesis", ".pytest_cache"} & {*path.parts}
        ]
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_of_the_checkout(tmp_path_factory.mktemp("source"))
    output = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", output, source)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    environment = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(pip(), "-m", "pip", "--python", python, "install", "--quiet", wheel)
    return python


def pip() -> str:
    """Return an interpreter that has pip: this environment was made without."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(base)


def test_the_wheel_holds_the_package_the_migrations_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"layerstore", wheel.name.split("-py3")[0] + ".dist-info"}
    assert "layerstore/_migrations/env.py" in names
    assert "layerstore/_migrations/versions/0001_metadata.py" in names
    assert "layerstore/_migrations/versions/0002_views.py" in names
    assert "layerstore/_migrations/versions/0003_places.py" in names
    assert "layerstore/py.typed" in names
    shown = {name.removeprefix("layerstore/web/") for name in names if name.startswith("layerstore/web/")}
    there = {str(path.relative_to(WEB)) for folder in ("templates", "static") for path in (WEB / folder).iterdir()}
    assert len(there) > 15
    assert there <= shown
    assert not [name for name in names if name.endswith((".db", ".pyc"))]


def test_every_link_and_picture_of_the_description_is_an_address(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
    description = archive.read(metadata).decode().partition("\n\n")[2]
    links = re.findall(r"\]\(([^)]+)\)", description)

    assert description.startswith("# layerstore")
    assert len(links) > 10
    assert [link for link in links if not link.startswith("https://")] == []
    assert [link for link in links if link.endswith(".png") and "raw.githubusercontent.com" not in link] == []
    relative = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert [link.partition("/main/")[2] or link for link in links] == relative


def test_the_installed_command_works_away_from_the_checkout(python: Path, tmp_path: Path):
    layerstore = python.parent / "layerstore"
    golden = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
    assert "178 added" in run(layerstore, "--db", tmp_path / "x.db", "import", golden, cwd=tmp_path)
    assert run(layerstore, "--db", tmp_path / "x.db", "schema", "history", cwd=tmp_path).startswith("0001 ")


TASKS = {
    "record a layer and find a mount in Python": (
        ["python task.py"],
        "mount sha256:4ab179cadfdc from",
    ),
    "move what a host knows to another one": (
        [
            "tar -C docker-a -c image | layerstore import -",
            "layerstore export --data-root docker-b --driver overlay2",
            "layerstore diff docker-b",
        ],
        "178 entries are equal",
    ),
    "find where a layer came from": (
        ["layerstore import docker-a", "layerstore show 15a6e8a8ae10"],
        "localhost:5000/team1/app",
    ),
}


@pytest.mark.parametrize(("commands", "said"), TASKS.values(), ids=TASKS)
def test_a_newcomers_first_tasks_take_three_commands_at_most(
    python: Path, tmp_path: Path, commands: list[str], said: str
):
    """From a fresh environment, with what README shows."""
    readme = (ROOT / "README.md").read_text()
    (tmp_path / "task.py").write_text(readme.split("```python\n")[1].split("```")[0])
    golden = ROOT / "tests" / "golden" / "docker-20.10.24" / "distribution"
    shutil.copytree(golden, tmp_path / "docker-a" / "image" / "overlay2" / "distribution")
    path = f"{python.parent}:{os.environ['PATH']}"
    printed = [
        run("env", f"PATH={path}", "LAYERSTORE_DB=layers.db", "sh", "-euc", command, cwd=tmp_path)
        for command in commands
    ]

    assert len(commands) <= 3
    assert said in printed[-1]


NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0004", "0003", None, None
def upgrade():
    op.create_table("note", sa.Column("text", sa.Text))
def downgrade():
    op.drop_table("note")
"""

PROGRAM = """
from layerstore.sql import schema
with_head = {revision!r}
schema.HEAD = with_head
from layerstore import SQLMetadataStore
from layerstore.sql.sqlite.opening import revision
with SQLMetadataStore("m.db") as store:
    store.set("a", with_head, b"kept")
    print(revision("m.db"), [key for _, key, _ in store.entries()])
"""


def test_the_installed_wheel_migrates_a_file(python: Path, tmp_path: Path):
    """A file of 0003 is upgraded by a release that has a 0004, with the migrations that are in the wheel."""
    (versions,) = python.parent.parent.glob("lib/*/site-packages/layerstore/_migrations/versions")
    for revision, printed in (("0003", "0003 ['0003']\n"), ("0004", "0004 ['0003', '0004']\n")):
        (tmp_path / "program.py").write_text(PROGRAM.format(revision=revision))
        assert run(python, "program.py", cwd=tmp_path) == printed
        (versions / "0004_note.py").write_text(NEXT_REVISION)


def test_readmes_first_command_works_in_an_empty_clone(tmp_path: Path):
    readme = (ROOT / "README.md").read_text()
    command = readme.split("## Install\n")[1].split("```sh\n")[1].split("```")[0]
    copy_of_the_checkout(tmp_path)
    command = command.replace("python3 ", f"{pip()} ")
    printed = run("bash", "-euo", "pipefail", "-c", command, cwd=tmp_path)
    assert "178 read, 178 added" in printed
    assert "localhost:5000/team1/app" in printed
