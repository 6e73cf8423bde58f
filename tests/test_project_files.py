"""Citation, changelog, workflows and issue forms are valid, and agree with the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import sonolume

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(set((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
MAKE = re.compile(r"(?:^|[;&|]\s*)(?:\w+=\S+\s+)*make\s+([^\n;&|#]+)", re.MULTILINE)
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40}")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def targets_called(text: str) -> set[str]:
    return {word for words in MAKE.findall(text) for word in words.split() if "=" not in word and word[0] != "-"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_have_few_rights_and_pinned_actions(path: Path) -> None:
    workflow, text = read(path), path.read_text(encoding="utf-8")
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text and "pull_request_target" not in text
    further = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert further == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})
    assert all(job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    for step in steps(workflow):
        assert ("run" in step) != bool(PINNED.fullmatch(step.get("uses", ""))), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_workflows_and_pages_call_make_targets_that_exist() -> None:
    runs = {path.stem: "\n".join(step.get("run", "") for step in steps(read(path))) for path in WORKFLOWS}
    assert targets_called(runs["test"]) == {"test"} and targets_called(runs["docs"]) == {"docs"}
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.+?)^```", page, re.DOTALL | re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = targets_called("\n".join([*runs.values(), *blocks])) | set(re.findall(r"exec make (\w+)", ci))
    assert {"dev", "check", "docs", "test", "test-full"} <= called <= make_targets()
    assert targets_called("cd x && make no-such N=3 -s\nPYTHON=python make docs # all") == {"no-such", "docs"}


def test_the_tested_pythons_are_supported() -> None:
    oldest = re.search(r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    tested = read(ROOT / ".github/workflows/test.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert oldest and min(tested) == f"3.{oldest[1]}"


def test_the_release_compares_the_tag_with_the_version() -> None:
    """The sed of release.yml finds the line of setup.py."""
    found = re.findall(r'^ *version="(.*)",$', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [sonolume.__version__]
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert r"""sed -n 's/^ *version="\(.*\)",$/\1/p' setup.py""" in text


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path: Path) -> None:
    form = read(path)
    assert form.keys() <= {"name", "description", "title", "labels", "body"} and form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) and any(field.get("validations", {}).get("required") for field in fields)
    assert {field["type"] for field in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(field["attributes"]["label"] for field in fields)
    recipes = {str(page.parent.relative_to(ROOT / "egs")) for page in (ROOT / "egs").glob("*/*/README.md")}
    for field in fields:
        if field["id"] == "recipe":
            offered = set(field["attributes"]["options"])
            assert {one for one in offered if "/" in one} == recipes
    for name in re.findall(r"\b[\w/]+\.md\b", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


def test_other_github_files() -> None:
    assert {path.stem for path in FORMS} == {"bug", "feature", "own_data"}
    assert read(ROOT / ".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": False}
    updates = read(ROOT / ".github/dependabot.yml")["updates"]
    assert [update["package-ecosystem"] for update in updates] == ["github-actions"]


def test_citation() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["authors"]
    assert str(citation["version"]) == sonolume.__version__ and citation["license"] == "MIT"
    recipes = {str(page.parent.relative_to(ROOT / "egs")) for page in (ROOT / "egs").glob("*/*/README.md")}
    notes = " ".join(reference["notes"] for reference in citation["references"])
    assert recipes == set(re.findall(r"\b[a-z0-9]+/[a-z0-9]+\b", notes))
    for reference in citation["references"]:
        assert reference["type"] and reference["title"] and reference["authors"]
        for name in reference.get("identifiers", []):
            assert name["value"].removeprefix("arXiv:") in reference["url"]


def test_the_changelog_names_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\] - (?:Unreleased|\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert versions[0] == sonolume.__version__ and len(versions) == len(re.findall("^## ", text, re.MULTILINE))
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
