import pytest
from scipy import stats

from slr.evaluation.compare.student import quantile, two_sided

FREEDOM = (0.5, 1, 1.7, 2, 3.3, 4, 8, 17.5, 100, 399, 1e4, 1e6)


@pytest.mark.parametrize("freedom", FREEDOM)
def test_tails_are_scipys(freedom):
    for t in (0, 1e-6, 0.01, 0.5, 1, 2, 3, 5, 9, 30):
        expected = 2 * stats.t.sf(t, freedom)
        assert two_sided(t, freedom) == pytest.approx(expected, rel=1e-6, abs=1e-300)
        assert two_sided(-t, freedom) == two_sided(t, freedom)


@pytest.mark.parametrize("freedom", FREEDOM)
def test_quantiles_are_scipys(freedom):
    for share in (0.5, 0.9, 0.975, 0.9995):
        assert quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-7, abs=1e-12)
