"""The tables of README.md and docs/results.md, made from the committed result files.

    python -m benchmarks.readme_table     # writes both

A test holds both pages to it, so no number there can be typed by hand.
"""

from pathlib import Path
from typing import Any

from benchmarks.cifar_table import PUBLISHED
from benchmarks.readme_gpu import full_table, gpu_host, note_of
from distillery.files import read_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
START, END = "<!-- results: python -m benchmarks.readme_table -->", "<!-- end of results -->"
FILES = {"digits.json": "digits", "mnist.json": "MNIST"}
COLUMNS = {
    "accuracy": "accuracy", "cluster_min": "worst cluster", "noise": "noise", "blur": "blur",
    "invert": "invert",
}  # fmt: skip


def cell(figure: dict[str, Any] | None) -> str:
    """Return mean and sample standard deviation in per cent."""
    if figure is None:
        return "not enough data"
    if figure["std"] is None:
        return f"{100 * figure['mean']:.1f}"
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}"


def headline() -> str:
    """Return the README's table, hard labels and accuracy alone, and a few sentences."""
    columns = {
        f"{name}, {key.removeprefix('ipc')} per class": {row["label"]: row for row in rows["hard"]}
        for _, name, tables in _tables()
        for key, rows in tables
    }
    names = {label: row["name"] for rows in columns.values() for label, row in rows.items()}
    lines = ["| trained on | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for label, name in names.items():
        cells = [
            cell(rows[label]["accuracy"]) if label in rows else "" for rows in columns.values()
        ]
        lines.append(f"| {f'**{label}**' if name == 'ours' else label} | {' | '.join(cells)} |")
    note = (
        "Test accuracy in % of students that saw these images and hard labels alone, mean ± "
        "standard deviation over students (`python -m benchmarks.digits`, `python -m "
        "benchmarks.mnist`). Worst clusters, soft labels, corruptions, CIFAR-10 and speed: "
        "[docs/results.md](docs/results.md)."
    )
    return "\n\n".join(["\n".join(lines), note, *_real_starts(), *_whole_run(), *_chaos()])


def _real_starts() -> list[str]:
    """Return where validation preferred real images, so that our row is a set of those."""
    found = []
    for _, name, tables in _tables():
        for key, rows in tables:
            starts = rows.get("starts", [])
            real = starts.count("real_by_validation")
            if real:
                found.append(
                    f"{name}, {key.removeprefix('ipc')} per class ({real} of {len(starts)} runs)"
                )
    if not found:
        return []
    return [
        "Validation preferred real images to generated ones, so that Distillery's set is made of "
        f"k-medoids of real images, in: {'; '.join(found)}."
    ]


def _tables() -> list[tuple[str, str, list[tuple[str, dict[str, Any]]]]]:
    """Return file, name and tables of each data set that has been run, by images per class."""
    found = []
    for file, name in FILES.items():
        if (RESULTS / file).exists():
            tables = read_json(RESULTS / file)["tables"].items()
            ordered = sorted(tables, key=lambda one: int(one[0].removeprefix("ipc")))
            found.append((file, name, ordered))
    return found


def _machine(result: dict[str, Any]) -> str:
    """Return what a result was measured on."""
    return f"{result['environment']['cores']} cores of {result['environment']['cpu']}"


def table() -> str:
    """Return the tables of all result files that are there, as Markdown."""
    parts = []
    for file, name, tables in _tables():
        parts += [_one(name, key.removeprefix("ipc"), rows) for key, rows in tables]
        command = f"`python -m benchmarks.{file.removesuffix('.json')}`"
        result = read_json(RESULTS / file)
        parts.append(
            f"{command} on {_machine(result)} (`benchmarks/results/{file}`).{note_of(result)}"
        )
    return "\n\n".join(
        [
            *parts,
            *_matching(),
            *full_table(RESULTS),
            *_robust(),
            *_choices(),
            *_whole_run(),
            *_speed(),
            *_chaos(),
            *_service(),
        ]
    )


def _matching() -> list[str]:
    """Return the table of matching methods on CIFAR-10; rows without a cell are left out."""
    if not (RESULTS / "cifar_quick.json").exists():
        return []
    result = read_json(RESULTS / "cifar_quick.json")
    seconds = result["setting"]["seconds"]
    lines = [
        f"**CIFAR-10, 10 stored images per class, {seconds:.0f} CPU seconds of distillation for "
        "every method** (%, test split; standard deviation where there are several seeds; IDM and "
        "what is named packed hold several pictures in each stored image)",
        "",
        "| hard labels | seeds | accuracy | worst cluster | noise | blur | invert | seconds | "
        "peak memory, MiB | iterations, share of the published | accuracy as published |",
        "|---" * 11 + "|",
    ]
    shown = {name: row for name, row in result["rows"].items() if row["seeds"]}
    for name, row in sorted(shown.items(), key=lambda one: one[1]["accuracy"]["mean"]):
        figures = " | ".join(cell(row[figure]) for figure in COLUMNS)
        share = row["share_of_schedule"]
        steps = "" if share is None else f"{row['iterations']:.0f}, {100 * share:.2g} %"
        lines.append(
            f"| {row['label']} | {row['seeds']} | {figures} | {row['seconds']:.0f} | "
            f"{row['peak_mib']:.0f} | {steps} | {PUBLISHED.get(name, '')} |"
        )
    return [
        "\n".join(lines),
        "`python -m benchmarks.cifar_quick --data DIR` (`cifar_quick.json`). "
        + " ".join(_orders(result)),
    ]


def _orders(result: dict[str, Any]) -> list[str]:
    """Return which orders hold, expected and published, and how far ours is ahead."""
    names = {name: row["label"] for name, row in result["rows"].items()}
    held = [one for one in result["expected_order"] if one["holds"] is not None]
    expected = "; ".join(
        f"{names[one['worse']]} < {names[one['better']]}: "
        f"{'holds' if one['holds'] else 'does not hold'} ({100 * one['difference']:+.1f})"
        for one in held
    )
    found = [f"Expected orders: {expected}."]
    other = [one for one in result["published_order"] if one["holds"] is False]
    pairs = "; ".join(
        f"{names[one['better']]} behind {names[one['worse']]} ({100 * one['difference']:+.1f})"
        for one in other
    )
    found.append(f"Pairs in another order than published: {pairs or 'none'} (why: docs/method.md).")
    ahead = result["ours_ahead"]
    if ahead is not None:
        error = ahead["standard_error"]
        spread = "one seed" if error is None else f"standard error {100 * error:.1f}"
        found.append(
            f"Ours is ahead of the best published form ({names[ahead['best']]}) by "
            f"{100 * ahead['ahead']:.1f} points ({spread})."
        )
    return found


def _robust() -> list[str]:
    """Return what the robust objective changed, one sentence a study."""
    if not (RESULTS / "robust_objective.json").exists():
        return []
    found = []
    for name, study in read_json(RESULTS / "robust_objective.json")["studies"].items():
        figures = []
        for figure, words in (("cluster_min", "worst cluster"), ("accuracy", "accuracy")):
            figures.append(f"{words} {_points(study['test'][figure])} points")
        found.append(_tried(name, study))
        found.append(
            f"Proxies trained by the robust objective instead of cross-entropy, {name}, 5 paired "
            f"test seeds: {', '.join(figures)} (95 % interval; `robust_objective.json`)."
        )
    return found


def _choices() -> list[str]:
    """Return the tables of refinements that were tried for the default, one a dataset."""
    found = []
    for path in sorted(RESULTS.glob("refine_choice*.json")):
        result = read_json(path)
        lines = [
            f"**Which refinement is the default? {Path(result['dataset']).name}, "
            f"{result['images_per_class']} images per class** ({result['judged_on']}; "
            "% of students of refined random real images; difference to `clusters` in points, "
            "mean ± standard error over pairs)",
            "",
            "| refined by | cells | accuracy | worst cluster | accuracy against clusters | "
            "CPU seconds |",
            "|---" * 6 + "|",
        ]
        ordered = sorted(result["rows"].items(), key=lambda one: -one[1]["accuracy"])
        for name, row in ordered:
            figures = " | ".join(f"{100 * row[one]:.1f}" for one in ("accuracy", "cluster_min"))
            lines.append(
                f"| {name} | {row['cells']} | {figures} | "
                f"{_against(row['against_default']['accuracy'])} | {row['seconds']:.0f} |"
            )
        command = result["environment"]["command"]
        choice = f"By accuracy and time the choice is: {result['choice']}."
        chosen = f"{choice} `{command}` (`{path.name}`).{note_of(result)}"
        found += ["\n".join(lines), chosen]
    return found


def _against(difference: dict[str, Any] | None) -> str:
    """Return a paired difference in points with its standard error."""
    if difference is None:
        return ""
    error = difference["standard_error"]
    spread = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * difference['mean']:+.1f}{spread}"


def _tried(name: str, study: dict[str, Any]) -> str:
    """Return the table of all settings of the robust objective that were tried on validation."""
    lines = [
        f"**The robust objective against cross-entropy, {name}: all settings tried** (validation, "
        "points of difference over paired seeds with their 95 % interval)",
        "",
        "| networks trained by it | judged | seeds | worst cluster | accuracy |",
        "|---" * 5 + "|",
    ]
    for rows, what in ((study["proxies"], "proxies"), (study["search"], "students of the set")):
        for row in rows:
            figures = [_points(row[figure]) for figure in ("cluster_min", "accuracy")]
            seeds = len(row["accuracy"]["differences"])
            lines.append(f"| {row['name']} | {what} | {seeds} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _points(difference: dict[str, Any]) -> str:
    """Return a mean difference and its interval in points."""
    low, high = (f"{100 * edge:+.1f}" for edge in difference["interval"])
    return f"{100 * difference['mean']:+.1f} ({low} to {high})"


def _chaos() -> list[str]:
    """Return what was lost under `kill -9`, one sentence a result file."""
    found = []
    for path in sorted(RESULTS.glob("chaos_*.json")):
        result = read_json(path)
        kills = sum(result["kills"].values())
        lost = "nothing lost" if result["nothing_lost"] else "something lost"
        found.append(
            f"{result['jobs']} jobs ({result['preset']}) under {kills} `kill -9`, "
            f"{result['database']}: {lost}, {len(result['overlaps'])} stages in two processes at "
            f"once, {len(result['wrong'])} wrong results (`{path.name}`)."
        )
    return found


def _service() -> list[str]:
    """Return what was measured of the service."""
    found = []
    if (RESULTS / "service_load.json").exists():
        result = read_json(RESULTS / "service_load.json")
        load, share = result["load"], result["download"]["share"]
        slowest = " and ".join(
            f"{load[name]['p99_ms']:.0f} ms (`{name}`)" for name in ("POST /jobs", "GET /jobs/{id}")
        )
        found.append(
            f"Beside a running job, {load['clients']} clients and {load['streams']} event streams "
            f"for {load['seconds']:.0f} s: {load['errors']} errors, 99 % of the answers within "
            f"{slowest}, {load['api_memory_mb']['max']:.0f} MB; a download is {100 * share:.0f} % "
            "as fast as `sendfile` (`service_load.json`)."
        )
    if (RESULTS / "service_start.json").exists():
        seconds = read_json(RESULTS / "service_start.json")["seconds"]
        found.append(
            f"`distillery serve` answers after {seconds['health']['median']:.1f} s; a posted job "
            f"runs after {seconds['running']['median']:.1f} s and reports its stage's own work "
            f"after {seconds['first_stage_progress']['median']:.1f} s (`service_start.json`)."
        )
    return found


def _whole_run() -> list[str]:
    """Return what the default run takes."""
    if not (RESULTS / "whole_run.json").exists():
        return []
    result = read_json(RESULTS / "whole_run.json")
    first, cached, smoke = result["rows"]
    peak = max(row["peak_memory_bytes"] for row in result["rows"]) / 1e9
    evaluation = cached["stages"]["evaluate"]
    missed = "".join(
        f" The target of {row['target_s']:.0f} s ({row['name']}) is missed."
        for row in result["rows"]
        if row["seconds"] > row["target_s"]
    )
    return [
        f"The default run takes {first['seconds']:.0f} s on {_machine(result)} from nothing, and "
        f"{cached['seconds']:.0f} s with a cached base, of which {evaluation:.0f} s are "
        f"evaluation; `--preset smoke` takes {smoke['seconds']:.0f} s; peak memory {peak:.2f} GB "
        f"(`whole_run.json`).{missed}{note_of(result)}"
    ]


def _speed() -> list[str]:
    """Return what was measured of time, one sentence a result file."""
    found = []
    if (RESULTS / "finetune_step.json").exists():
        cases = read_json(RESULTS / "finetune_step.json")["results"]
        ratios = " and ".join(
            f"{c['ratio_to_floor_fast']:.2f} ({name})" for name, c in cases.items()
        )
        found.append(
            f"A fine-tuning step costs {ratios} of a forward and a backward to the input of the "
            "frozen network with the same matrix products (`finetune_step.json`)."
        )
    if (RESULTS / "sampling_batch.json").exists():
        ratio = read_json(RESULTS / "sampling_batch.json")
        found.append(
            f"Sampling the digits DiT in batches of 64 is {ratio['ratio']:.0f} times as fast per "
            "image as one at a time (`sampling_batch.json`)."
        )
    if (RESULTS / "matching_cost.json").exists():
        cost = read_json(RESULTS / "matching_cost.json")
        sides = "; ".join(f"{name} {side['faster']:.2f}" for name, side in cost["sides"].items())
        found.append(
            "A DM iteration with all classes in one pass is so many times as fast as a loop over "
            f"them: {sides}; our allocator setting makes one pass {cost['our_start_gains']:.2f} "
            "times as fast (`matching_cost.json`)."
        )
    if (RESULTS / "student_step.json").exists():
        cases = read_json(RESULTS / "student_step.json")["results"]
        ratios = ", ".join(f"{name} {case['faster']:.1f}" for name, case in cases.items())
        found.append(
            "A ConvNet's training step on a CPU is so many times as fast by the fused norm, ReLU "
            f"and pooling: {ratios} (`student_step.json`)."
        )
    if (RESULTS / "batched_students.json").exists():
        devices = read_json(RESULTS / "batched_students.json")["devices"]
        ratios = "; ".join(
            f"{device}, {row['name']}: {row['vmap']['speed']:.2f}"
            for device, rows in devices.items()
            for row in rows
        )
        found.append(
            "Five students trained together are so many times as fast as one after another, which "
            f"is why it is done on a GPU only: {ratios} (`batched_students.json`)."
        )
    return found + gpu_host(RESULTS)


def _one(name: str, images_per_class: str, rows: dict[str, Any]) -> str:
    """Return one table; soft-label rows stand in a table of their own."""
    count = len(rows["hard"][0]["accuracy"]["runs"])
    title = f"**{name}, {images_per_class} image{'s' * (images_per_class != '1')} per class**"
    lines = [
        f"{title} (%, mean ± standard deviation of {count} students; test split)",
        "",
        "| hard labels | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for row in rows["hard"]:
        label = f"**{row['label']}**" if row["name"] == "ours" else row["label"]
        lines.append(f"| {label} | " + " | ".join(cell(row[figure]) for figure in COLUMNS) + " |")
    if rows["soft"]:
        lines += ["", "| soft labels | " + " | ".join(COLUMNS.values()) + " |"]
        lines.append("|---" * (1 + len(COLUMNS)) + "|")
        for row in rows["soft"]:
            cells = " | ".join(cell(row[figure]) for figure in COLUMNS)
            lines.append(f"| **{row['label']}** | {cells} |")
    return "\n".join(lines)


def with_text(page: str, text: str) -> str:
    """Return a page with the text between the marks."""
    before, rest = page.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Write the tables into both pages."""
    for path, text in ((README, headline()), (PAGE, table())):
        path.write_text(with_text(path.read_text(), text))


if __name__ == "__main__":
    main()
