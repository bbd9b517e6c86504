//! Medians of repeated measurements and of the ratios between paired ones.

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// Of at least one value.
pub fn summarize(values: &[f64]) -> Summary {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    };
    Summary {
        median,
        min: sorted[0],
        max: sorted[sorted.len() - 1],
    }
}

pub fn median(values: &[f64]) -> f64 {
    summarize(values).median
}

/// The smallest value that at least this share of the values does not exceed.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The ratios of measurements that were taken one right after the other, which
/// share the noise of the moment.
pub fn paired_ratios(numerators: &[f64], denominators: &[f64]) -> Summary {
    let ratios: Vec<f64> = numerators
        .iter()
        .zip(denominators)
        .map(|(numerator, denominator)| numerator / denominator)
        .collect();
    summarize(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_ones() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[5.0, 1.0, 3.0]), 3.0);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        let found = [0.0, 0.2, 0.5, 0.95, 1.0].map(|share| percentile(&values, share));
        assert_eq!(found, [1.0, 1.0, 3.0, 5.0, 5.0]);
    }

    #[test]
    fn noise_that_both_of_a_pair_see_cancels() {
        let ratios = paired_ratios(&[20.0, 10.0, 40.0], &[10.0, 5.0, 20.0]);
        assert_eq!(
            ratios,
            Summary {
                median: 2.0,
                min: 2.0,
                max: 2.0
            }
        );
    }

    #[test]
    fn the_median_ratio_is_not_the_ratio_of_medians() {
        let ratios = paired_ratios(&[1.0, 10.0, 100.0], &[1.0, 20.0, 50.0]);
        assert_eq!((ratios.median, ratios.min, ratios.max), (1.0, 0.5, 2.0));
    }
}
