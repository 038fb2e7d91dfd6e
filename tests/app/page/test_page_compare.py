"""The page that compares two jobs."""

from page_helpers import CLASSES, HOSTILE, Site, make_dataset


def test_without_jobs_it_asks_for_two(site: Site) -> None:
    job = site.finish(site.start(name=HOSTILE))
    page = site.page("/ui/compare")
    assert page.count(f'<option value="{job.id}">') == 2 and "<script>alert" not in page
    assert "Results" not in page
    chosen = site.page(f"/ui/compare?a={job.id}")
    assert chosen.count(f'<option value="{job.id}" selected>') == 1


def test_settings_figures_and_images_stand_side_by_side(site: Site) -> None:
    first = site.finish(site.start(name="first", config={"seed": 0, "base": {"steps": 5}}))
    second = site.finish(
        site.start(name="second", config={"seed": 0, "base": {"steps": 9}}),
        make_dataset((*CLASSES[:2], "only here"), images_per_class=8),
    )
    page = site.page(f"/ui/compare?a={first.id}&b={second.id}")
    assert "<code>base.steps</code>" in page and "<code>seed</code>" not in page
    assert "accuracy, hard labels" in page and "worst group, soft labels" in page
    assert "90.0 ± 1.0" in page and "within the spread" in page
    assert f"/ui/jobs/{first.id}/images/11.png" in page and page.count("only here") >= 6
    assert f"/ui/jobs/{second.id}/images/21.png" in page, "six of eight"
    assert f"/ui/jobs/{second.id}/images/22.png" not in page and "+2" in page
    assert HOSTILE not in page and "style=" not in page


def test_a_job_without_a_result_is_compared_by_its_settings(site: Site) -> None:
    first, second = site.finish(site.start(config={"seed": 0})), site.create(name="waiting")
    page = site.page(f"/ui/compare?a={first.id}&b={second.id}")
    assert "has no report" in page and "has no plan yet" in page
    assert site.page(f"/ui/compare?a={first.id}&b={first.id}").count("same configuration") == 1


def test_an_unknown_job_is_not_found(site: Site) -> None:
    assert "no such job" in site.page("/ui/compare?a=job_none", status=404)


def test_it_is_reached_from_list_job_and_result(site: Site) -> None:
    job = site.finish(site.start())
    assert "/ui/compare" not in site.page("/"), "there is nothing to compare with"
    site.finish(site.start())
    assert 'href="/ui/compare"' in site.page("/")
    for path in (f"/ui/jobs/{job.id}", f"/ui/jobs/{job.id}/result"):
        assert f'href="/ui/compare?a={job.id}"' in site.page(path)


def test_many_classes_come_in_pages(site: Site) -> None:
    dataset = make_dataset(tuple(f"class {n}" for n in range(45)), images_per_class=1)
    jobs = [site.finish(site.start(), dataset) for _ in range(2)]
    address = f"/ui/compare?a={jobs[0].id}&b={jobs[1].id}"
    assert "page 1 of 3" in site.page(address)
    last = site.page(f"{address}&page=9")
    assert "page 3 of 3" in last and "class 44" in last and "class 39" not in last
