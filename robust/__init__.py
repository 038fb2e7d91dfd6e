"""Group robustness: CVaR over clusters, proxies, scoring, selection, matching, refinement."""
