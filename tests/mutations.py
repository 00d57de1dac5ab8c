#!/usr/bin/env python3
"""Do the case families notice when a protection of the lane is gone?

Takes one protection after the other out of a copy of the source, builds it, and runs the shipped cases. Every mutation
must make some family fail. Takes some minutes: `python3 tests/mutations.py [name ...]`.
"""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutated"

# name, file, what stands there, what stands there instead
MUTATIONS = [
    (
        "overlay-applied-before-the-commit",
        "engine/src/lane.rs",
        "        failpoint(\"lane-sealed\");\n",
        "        self.tasks.owned.values_mut().for_each(|o| o.task.stores().for_each(|(_, s)| s.apply(|_, _| {})));\n",
    ),
    (
        "rewind-does-not-read-again",
        "engine/src/lane/intake.rs",
        "        self.start(&started)\n",
        "        let _ = started;\n        Ok(Vec::new())\n",
    ),
    (
        "a-partition-s-offset-forgotten",
        "engine/src/lane/intake.rs",
        "            positions.push(Position::new(partition, input.position(), input.marks())?);\n",
        "            if partition.partition != 1 || partition.topic.starts_with(\"hw.\") {\n"
        "                positions.push(Position::new(partition, input.position(), input.marks())?);\n"
        "            }\n",
    ),
    (
        "state-kept-on-rewind",
        "engine/src/task.rs",
        "            if let Some(store) = &mut node.store {\n                store.discard();\n            }\n            node.ledger",
        "            node.ledger",
    ),
    (
        "unknown-taken-for-committed",
        "engine/src/lane/commits.rs",
        "            (_, outcome) => Err(LaneEnd::Restart(format!(\"a commit was fenced or its outcome is unknown: {outcome:?}\"))),\n",
        "            (_, _) => Ok(Some(Ended::Committed(Box::new(in_flight.sealed), Vec::new()))),\n",
    ),
    (
        "unknown-taken-for-aborted",
        "engine/src/lane/commits.rs",
        "        Outcome::Fenced(_) | Outcome::Unknown(_) => Next::Restart,\n",
        "        Outcome::Fenced(_) | Outcome::Unknown(_) => Next::Rewind,\n",
    ),
    (
        "changelog-not-written",
        "engine/src/lane/tasks.rs",
        "                    if let Err(turned_away) = out.push(record) {\n",
        "                    if value.is_some_and(|v| !v.is_empty()) {\n                        return;\n                    }\n"
        "                    if let Err(turned_away) = out.push(record) {\n",
    ),
    (
        "outputs-outlive-a-rewind",
        "engine/src/lane/rewind.rs",
        "        self.commits.abort()?;\n        self.outputs.buffer.discard();\n",
        "        self.commits.abort()?;\n",
    ),
    (
        "watermarks-not-committed",
        "engine/src/lane/commits.rs",
        "        let metadata = encode_watermarks(&watermarks);\n",
        "        let metadata = encode_watermarks(&watermarks.iter().map(|_| operator_core::NO_WATERMARK).collect::<Vec<_>>());\n",
    ),
    (
        "branches-merge-in-any-order",
        "engine/src/task/merge.rs",
        "    if one_branch {\n",
        "    if one_branch || true {\n",
    ),
    (
        "insert-again-without-its-token",
        "engine/src/delivery/memory.rs",
        "        if self.tokens.contains(&token) {\n",
        "        if false && self.tokens.contains(&token) {\n",
    ),
]


def copy() -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        target = COPY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)


def noticed(name: str, file: str, old: str, new: str) -> str:
    path = COPY / file
    text = path.read_text()
    if text.count(old) != 1:
        return "does not apply: the source has changed"
    path.write_text(text.replace(old, new))
    try:
        build = subprocess.run(
            ["cargo", "build", "--quiet", "--workspace", "--target-dir", str(ROOT / "target")], cwd=COPY, capture_output=True, text=True
        )
        if build.returncode != 0:
            return "does not build:\n" + build.stderr[-2000:]
        pipelines = sorted(str(p) for p in (COPY / "pipelines").glob("*/pipeline.yaml")) + [str(COPY / "tests/regressions/merged-branches/pipeline.yaml")]
        program = ROOT / "target" / "debug" / "hw"
        test = subprocess.run([str(program), "test", "--fail-fast", *pipelines], cwd=COPY, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return ""  # standing still is noticed, too
    finally:
        path.write_text(text)
    failed = [line for line in test.stdout.splitlines() if line.startswith("✗") or line.strip().startswith("schedule ")]
    return "" if test.returncode != 0 and failed else "NOT NOTICED: every case passed\n" + test.stderr[-500:]


def main() -> int:
    wanted = [m for m in MUTATIONS if len(sys.argv) == 1 or m[0] in sys.argv[1:]]
    copy()
    missed = 0
    for mutation in wanted:
        why = noticed(*mutation)
        missed += bool(why)
        print(f"{'noticed' if not why else 'MISSED '}  {mutation[0]}  {why}", flush=True)
    shutil.rmtree(COPY, ignore_errors=True)
    print(f"{len(wanted) - missed} of {len(wanted)} mutations were noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
