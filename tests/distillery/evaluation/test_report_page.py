"""The page answers what a reader asks first, claims only what the numbers carry, and is closed."""

import html.parser
import re
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from distillery.evaluation import plots, report_view
from distillery.evaluation.lanes import Lane
from distillery.evaluation.plots import lane_chart, line_chart
from distillery.evaluation.report_page import report_html

PNG = b"\x89PNG-preview"
HOSTILE = (
    "</svg><script>alert(1)</script><img src=x onerror=alert(2)> $\\frac{1}$ 金魚 \x00\n#040404"
)


def statistic(mean: float, std: float = 0.003, num_runs: int = 5) -> dict[str, Any]:
    runs = [min(1.0, mean + std * step) for step in (-1.2, -0.5, 0.0, 0.5, 1.2)]
    return {"mean": mean, "std": std, "runs": runs[:num_runs]}


def finding(count: int, other_label: int = 0) -> dict[str, Any]:
    """What `distillery.data.inspection` says of repeated images."""
    return {"count": count, "other_label": other_label, "names": [["b.png", "a.png"]] * count}


def row(name: str, mean: float, **fields: Any) -> dict[str, Any]:
    values = {
        "name": name,
        "label": f"{name} images",
        "is_ours": False,
        "images_per_class": 10,
        "accuracy": statistic(mean),
        "cluster_min": None,
        "noise": statistic(mean - 0.1),
        "blur": statistic(mean - 0.02),
        "invert": statistic(mean - 0.4),
        "per_class": [mean - 0.01, mean + 0.01],
        "groups": [
            {"id": "c0/k0", "n_test": 60, "accuracy": mean - 0.2},
            {"id": "c0/k1", "n_test": 12, "accuracy": None},
            {"id": "c1/k0", "n_test": 44, "accuracy": mean - 0.3},
        ],
    }
    return {**values, **fields}


def make_report(**changes: Any) -> dict[str, Any]:
    report = {
        "schema": "distillery-report/1",
        "title": "digits, 10 images per class",
        "dataset": {
            "reference": "digits",
            "kind": "digits",
            "num_classes": 2,
            "class_names": ["zero", "one"],
            "images_per_split": {"train": 1997, "validation": 200, "test": 600},
            "image_size": 8,
            "channels": 1,
            "bad_files": [{"name": "a.png", "reason": "cut short"}],
            "duplicates": finding(3, other_label=1),
            "leakage": {"validation": finding(0), "test": finding(5)},
            "fingerprint": "ab" * 32,
        },
        "config": {"seed": 0},
        "decisions": [{"what": "base", "choice": "own", "reason": "8 x 8 is small"}],
        "warnings": ["Only two classes."],
        "stages": [{"name": "prepare", "seconds": 62.0, "cached": True, "summary": "read all"}],
        "stage_effects": [
            {
                "stage": "finetune",
                "compared": ["plain", "minimax"],
                "metric": "accuracy",
                "gain": 0.012,
                "standard_error": 0.002,
                "verdict": "It gained.",
            },
            {
                "stage": "refine",
                "compared": ["minimax", "refined"],
                "metric": "accuracy",
                "gain": 0.001,
                "standard_error": 0.002,
                "verdict": "It made no difference.",
            },
        ],
        "protocol": {"name": "hard", "student": "convnet-d2-w32", "num_seeds": 5, "notes": "last"},
        "results": {
            "hard": [
                row("random-real", 0.9651),
                row("distilled", 0.9789, is_ours=True),
                row("k-medoids", 0.9722),
            ],
            "soft": [row("distilled", 0.9834, is_ours=True, label="with teacher")],
        },
        "full_data": row("full", 0.9872, label="full data", images_per_class=None),
        "curves": {"finetune": {"step": [0, 10, 20], "loss": [3.0, 2.0, 1.5]}},
        "start": {"kept": "generated", "word": "generated", "origin": "generated", "reason": None},
        "fallback": None,
        "licences": [{"what": "base", "licence": "cc-by-nc-4.0"}],
    }
    return {**report, **changes}


class Page(html.parser.HTMLParser):
    """Collects the tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(**changes: Any) -> Page:
    return Page(report_html(make_report(**changes), preview_png=PNG))


def test_the_first_screen_answers_how_good_against_what_and_what_was_useless() -> None:
    text = page().text
    first = text[: text.index("The images")]
    assert "97.9 %" in first and "± 0.3" in first
    assert "20 distilled images" in first and "(10 per class)" in first
    assert "Above best control +0.7 points k-medoids images" in first
    assert ": 97.2 ± 0.3 %" in first
    assert "Above random choice +1.4 points" in first
    assert "99.2 % of what the full data reach" in first
    assert "No measurable gain: refine." in first


def test_hard_and_soft_labels_are_never_in_one_table() -> None:
    text = page().text
    hard, soft = text.index("Hard labels: accuracy"), text.index("Soft labels: accuracy")
    assert hard < text.index("k-medoids images 10") < soft
    assert soft < text.index("with teacher 10")


def test_a_difference_within_the_noise_is_called_none() -> None:
    noisy = [
        row("distilled", 0.95, is_ours=True, accuracy=statistic(0.95, std=0.03)),
        row("random-real", 0.94, accuracy=statistic(0.94, std=0.03)),
    ]
    text = page(results={"hard": noisy, "soft": []}).text
    assert "No clear difference to best control +1.0 points" in text


def test_one_student_draws_no_verdict() -> None:
    """Neither a comparison nor a stage is good or bad, and nothing has a spread."""
    one = [
        row("distilled", 0.90, is_ours=True, accuracy=statistic(0.90, std=0.0, num_runs=1)),
        row("random-real", 0.95, accuracy=statistic(0.95, std=0.0, num_runs=1)),
    ]
    effect = {
        "stage": "refinement", "compared": ["a", "b"], "metric": "accuracy", "gain": -0.05,
        "standard_error": 0.0, "num_students": 1, "verdict": "one student says nothing",
    }  # fmt: skip
    report = make_report(results={"hard": one, "soft": []}, stage_effects=[effect], full_data=None)
    head, effects = report_view.headline(report), report_view.stage_effects(report)
    assert head is not None and head["std"] is None
    (found,) = head["comparisons"]
    assert (found["tone"], found["words"]) == ("flat", "one student, against")
    assert "±" not in found["accuracy"]
    assert (effects["rows"][0]["tone"], effects["rows"][0]["word"]) == ("flat", "one student")
    assert effects["sentence"] == "Not known, one student of a set says nothing of the noise."
    assert report_view.accuracy_lanes(one, None)[0].std is None
    text = Page(report_html(report, preview_png=PNG)).text
    for claim in ("Made it worse", "Below", "± 0.0", "hurt", "No measurable gain"):
        assert claim not in text, claim


def test_two_students_on_one_side_only_draw_no_verdict() -> None:
    rows = [
        row("distilled", 0.90, is_ours=True),
        row("random-real", 0.95, accuracy=statistic(0.95, std=0.0, num_runs=1)),
    ]
    head = report_view.headline(make_report(results={"hard": rows, "soft": []}))
    assert head is not None and head["comparisons"][0]["tone"] == "flat"


def test_a_weakest_group_without_enough_data_says_so() -> None:
    table = page().text
    table = table[table.index("trained on") : table.index("Weakest group:")]
    assert "weakest group, %" in table and table.count("not enough data") == 4
    assert report_view.figure({"accuracy": None}, "cluster_min") == "\N{EN DASH}"


def test_a_set_that_loses_to_a_control_says_so() -> None:
    losing = [row("distilled", 0.90, is_ours=True), row("random-real", 0.95)]
    assert "Below best control \N{MINUS SIGN}5.0 points" in page(results={"hard": losing}).text


def test_repeated_and_leaked_images_are_counted() -> None:
    text = page().text
    assert "exact duplicates 3 (1 with another label)" in text
    assert "train images in other splits validation 0, test 5" in text
    data = make_report()["dataset"]
    none = {"validation": finding(0), "test": finding(0)}
    text = page(dataset={**data, "duplicates": finding(0), "leakage": none}).text
    assert "exact duplicates none" in text and "in other splits none" in text
    assert "duplicates in test" not in text  # a report from before they were looked for
    twice = {"validation": finding(2), "test": finding(0)}
    text = page(dataset={**data, "test_repeats": twice}).text
    assert "test images in validation 2" in text and "exact duplicates in test none" in text


def test_small_groups_have_no_number_and_come_last() -> None:
    lanes, left_out = report_view.group_lanes(make_report()["results"]["hard"])
    assert [lane.label[:5] for lane in lanes] == ["c1/k0", "c0/k0", "c0/k1"]
    assert lanes[-1].mean is None and lanes[-1].reference is None
    assert left_out == 0
    assert "not enough data" in page().text


def test_many_classes_show_the_worst_and_count_the_rest() -> None:
    ours = row("distilled", 0.5, is_ours=True, per_class=[i / 100 for i in range(100)][::-1])
    lanes, left_out = report_view.class_lanes([ours], [f"n{i}" for i in range(100)])
    assert [lane.label for lane in lanes[:2]] == ["n99", "n98"]
    assert len(lanes) == 30 and left_out == 70
    assert "70 more classes are in report.json." in page(results={"hard": [ours]}).text


def test_the_page_is_closed() -> None:
    """Nothing is loaded from outside and nothing runs."""
    text = report_html(make_report(), preview_png=PNG)
    parsed = Page(text)
    assert not {"script", "iframe", "link", "object", "embed", "form", "base"} & set(parsed.tags)
    for name, value in parsed.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "srcset"):
            assert value.startswith(("data:image/png;base64,", "#")), value
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in (
        parsed.attributes
    )


def test_hostile_text_stays_text_in_the_page_and_in_its_charts() -> None:
    data = make_report()["dataset"] | {"class_names": [HOSTILE, "one"], "reference": HOSTILE}
    ours = row(
        "x",
        0.9,
        is_ours=True,
        label=HOSTILE,
        groups=[{"id": HOSTILE, "n_test": 40, "accuracy": 0.8}],
    )
    text = report_html(
        make_report(
            title=HOSTILE,
            dataset=data,
            warnings=[HOSTILE],
            results={"hard": [ours]},
            curves={HOSTILE: {HOSTILE: [1.0, 2.0]}},
            config={HOSTILE: HOSTILE},
            licences=[{"what": HOSTILE, "licence": HOSTILE}],
        ),
        preview_png=PNG,
    )
    tags = Page(text).tags
    assert "script" not in tags and tags.count("img") == 1
    assert "onerror" not in dict(Page(text).attributes)
    assert "金魚" in text


def test_the_ids_of_the_page_are_distinct_and_their_uses_resolve() -> None:
    text = report_html(make_report(), preview_png=PNG)
    ids = re.findall(r'\bid="([^"]+)"', text)
    uses = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert len(ids) == len(set(ids))
    assert uses and set(uses) <= set(ids)


@pytest.mark.parametrize(
    "missing",
    [
        "dataset",
        "config",
        "decisions",
        "warnings",
        "stages",
        "stage_effects",
        "protocol",
        "results",
        "full_data",
        "curves",
        "start",
        "fallback",
        "licences",
        "title",
    ],
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_any_part_may_be_missing(missing: str, how: str) -> None:
    report = make_report()
    if how == "absent":
        report.pop(missing)
    else:
        report[missing] = None
    assert "</html>" in report_html(report, preview_png=PNG)


def test_without_results_nothing_is_claimed() -> None:
    text = page(results={"hard": [], "soft": []}, stage_effects=[], full_data=None).text
    assert "Not measured: this job ran without evaluation" in text
    assert "Against what" not in text


def test_a_fallback_stands_above_everything() -> None:
    text = page(fallback={"reason": "The base was too large, real images were taken."}).text
    assert text.index("Not what was asked for") < text.index("How good is it?")
    assert "real images were taken" in text


def test_real_images_that_were_preferred_are_no_failure() -> None:
    start = {"kept": "real", "word": "real_by_validation", "origin": "refined",
             "reason": "students of them did better"}  # fmt: skip
    text = page(start=start).text
    assert "Real images were kept students of them did better" in text
    assert "Not what was asked for" not in text
    assert "The images are real training images, moved by refinement." in text
    generated = {"kept": "generated", "word": "generated", "origin": "generated", "reason": None}
    assert "Real images were kept" not in page(start=generated).text
    assert "The images are synthetic." in page(start=generated).text


def test_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 'distillery-report/1', got 'x'"):
        report_html({"schema": "x"}, preview_png=PNG)


def test_equal_reports_give_equal_pages() -> None:
    assert report_html(make_report(), preview_png=PNG) == report_html(
        make_report(), preview_png=PNG
    )


@pytest.mark.parametrize(
    ("gain", "error", "expected"),
    [
        (0.010, 0.004, "good"),
        (0.008, 0.004, "flat"),
        (-0.010, 0.004, "bad"),
        (0.0004, 0.0, "flat"),  # less than the page's last digit
        (0.0, 0.0, "flat"),
    ],
)
def test_a_gain_counts_beyond_two_standard_errors(gain: float, error: float, expected: str) -> None:
    assert report_view.tone(gain, error) == expected


def test_the_standard_error_of_a_difference() -> None:
    """sqrt(0.03^2 / 9 + 0.04^2 / 4) = sqrt(0.0001 + 0.0004)."""
    one = {"std": 0.03, "runs": [0.0] * 9}
    other = {"std": 0.04, "runs": [0.0] * 4}
    assert report_view.standard_error(one, other) == pytest.approx(0.0005**0.5)


def test_numbers_are_percent_with_one_decimal() -> None:
    assert report_view.percent(0.97894) == "97.9\N{NO-BREAK SPACE}%"
    assert report_view.mean_std({"mean": 0.5, "std": 0.0123}) == "50.0 ± 1.2"
    assert report_view.mean_std(None) == "\N{EN DASH}"
    assert report_view.points(-0.0149) == "\N{MINUS SIGN}1.5"
    assert report_view.points(0.0002) == "±0.0"
    assert [report_view.duration(s) for s in (0.42, 101, 7260)] == [
        "0.4 s",
        "1 min 41 s",
        "2 h 01 min",
    ]


def test_better_lanes_stand_further_right() -> None:
    svg = lane_chart([Lane(label="a", mean=0.9), Lane(label="b", mean=0.95)], title="t")
    marks = [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]
    assert len(marks) == 2 and marks[0] < marks[1]


@pytest.mark.parametrize("mean", [0.0, 0.003, 0.5, 0.999, 1.0, None])
@pytest.mark.parametrize("width_px", [plots.WIDE_PX, plots.NARROW_PX])
def test_every_share_has_its_place_inside_the_chart(mean: float | None, width_px: int) -> None:
    lane = Lane(label="a", mean=mean, std=0.01, runs=(mean,) if mean else (), note="not enough")
    svg = lane_chart([lane], title="t", width_px=width_px)
    for x in re.findall(r'<use [^>]*x="([-\d.]+)"', svg):
        assert 0 <= float(x) <= width_px
    ticks = [float(tick) for tick in re.findall(r">([-\d.]+) %<", svg)]
    assert len(ticks) >= 2 and min(ticks) >= 0 and max(ticks) <= 100


def test_a_curve_leaves_out_what_is_not_finite_and_thins_what_is_long() -> None:
    svg = line_chart([1.0, float("nan"), float("inf"), 0.5], [0, 1, 2, 3], title="loss")
    assert "nan" not in svg.lower()
    assert len(line_chart([0.5] * 100_000, title="loss")) < 40_000
    with pytest.raises(ValueError, match="at least one finite number"):
        line_chart([float("nan")], title="loss")


def test_charts_take_their_colours_from_the_page() -> None:
    svg = line_chart([1.0, 2.0], title="loss") + lane_chart([Lane(label="a", mean=0.5)], title="t")
    assert "var(--accent" in svg and "var(--line" in svg
    assert not re.search(r"(fill|stroke): #(?!fff)", svg)
