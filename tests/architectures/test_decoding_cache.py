"""The growing cache of keys and values."""

import pytest
import torch
from hybridlab.architectures.growing_cache import SPARE_TOKENS, append


@pytest.mark.parametrize("batch", [1, 3])
def test_it_holds_all_that_was_appended_in_order(batch):
    text = torch.randn(batch, 700, 2, 4)
    cache = text[:, :0]
    start = 0
    for length in [5, 1, 1, 40, *[1] * 500, 153]:
        cache = append(cache, text[:, start : start + length])
        start += length
        assert torch.equal(cache, text[:, :start])


def test_steps_are_written_in_place_until_the_room_is_used():
    cache = append(torch.zeros(2, 0, 3), torch.ones(2, 10, 3))
    places = set()
    for _ in range(SPARE_TOKENS + 1):
        cache = append(cache, torch.ones(2, 1, 3))
        places.add(cache.data_ptr())
    assert len(places) == 1
    assert append(cache, torch.ones(2, 1, 3)).data_ptr() not in places


def test_it_keeps_its_own_dtype():
    cache = append(torch.zeros(1, 0, 3, dtype=torch.bfloat16), torch.ones(1, 4, 3))
    assert append(cache, torch.ones(1, 1, 3)).dtype == torch.bfloat16


def test_what_lies_behind_a_slice_of_another_tensor_is_left_alone():
    wide = torch.randn(1, 5, 9)
    kept = wide.clone()
    cache = append(torch.zeros(1, 0, 3), wide[:, :, :3])
    for _ in range(4):
        cache = append(cache, torch.zeros(1, 1, 3))
    assert torch.equal(wide, kept)


def test_a_copy_grows_by_itself():
    cache = append(append(torch.zeros(1, 0, 3), torch.ones(1, 4, 3)), torch.ones(1, 1, 3))
    copy = cache.clone()
    longer, other = append(cache, torch.zeros(1, 1, 3)), append(copy, torch.full((1, 1, 3), 2.0))
    assert longer[0, 5].tolist() == [0, 0, 0]
    assert other[0, 5].tolist() == [2, 2, 2]
