"""Names of keys."""

from __future__ import annotations

import pytest

from downloadd.state.keys import Keys


def test_every_key_is_in_one_slot() -> None:
    """Each name begins with the prefix, whose hash tag is then the first in the name."""
    keys = Keys()
    names = [keys.queue, keys.active, keys.sequence, keys.control, keys.health, keys.webhooks]
    names += [keys.installation, keys.archives]
    makers = (keys.job, keys.files, keys.events, keys.checkpoint, keys.headers, keys.deliveries)
    names += [make("{other}") for make in makers]
    names += [make("x") for make in (keys.user_jobs, keys.dedupe, keys.idempotency)]
    names += [keys.last_claim("x"), keys.last_webhooks("x")]
    assert all(name.startswith("{downloadd}:") for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("prefix", ["", "a b:", "100%:", "a\n"])
def test_a_prefix_that_breaks_names_is_refused(prefix: str) -> None:
    """White space would split published messages, % the templates that scripts get."""
    with pytest.raises(ValueError, match="prefix"):
        Keys(prefix)
