"""The results of measuring a store's cells without a training: measures.csv, measures.png and measures.html."""

import pandas as pd

from bae_ray.experiments.layer_position.estimators import HEADING, NOTE, survival
from bae_ray.report.measure_maps import measure_maps
from bae_ray.report.measures import known_measures
from bae_ray.report.results_writer import Results
from bae_ray.report.terminal import table_of


def measures_results(table: pd.DataFrame) -> Results:
    """The results of the rows that `measure_store` found."""
    names, told = known_measures(table), survival(table)
    columns = {"layer": "{layer}", "site": "{site}", "position": "{position}", "FVU": "{fvu:.3f}"}
    columns |= {
        "Gaussian": "{gaussian_bits:.1f}",
        "signs": "{sign_bits:.1f}",
        "at FVU": "{sign_fvu:.3f}",
        "product": "{product_bits:.1f}",
        "at FVU ": "{product_fvu:.3f}",
        "rank": "{effective_rank:.1f}",
        "participation": "{participation_ratio:.1f}",
        "matrix": "{matrix_entropy_bits:.2f}",
        "dimension": "{intrinsic_dimension:.1f}",
    }
    numbers = table.astype(dict.fromkeys(names, float))
    return Results(
        page="measures.html",
        title="Measures of the cells of a store",
        tables={"measures.csv": table, **({"claims.csv": told.table} if told else {})},
        figures={"measures.png": measure_maps(table, names)} if names else {},
        printed=[table_of("Bits at the FVU, and dimensions", numbers, columns), *([told.printed] if told else [])],
        notes=[NOTE],
        claims=told.lines if told else (),
        sections={HEADING: told.table} if told else {},
    )
