"""Figures of repeated measurements, for the checks here."""
import random
import statistics


def interval(values):
    """95 % of the median, by 2,000 resamples."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(2000))
    return [round(medians[50], 4), round(medians[1949], 4)]
