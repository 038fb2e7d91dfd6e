"""One thing is spoken of in the singular."""

from distillery.wording import counted, were


def test_one_thing_is_spoken_of_in_the_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [were(n) for n in (0, 1, 2)] == ["were", "was", "were"]
