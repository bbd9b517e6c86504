//! A report as text: for the terminal, and as the table of the README.

use super::report::{Meaning, Report, Row, Unit};
use super::statistics::Summary;
use super::targets;

/// One line per row, in columns.
pub fn terminal(report: &Report) -> String {
    let mut lines = vec![
        [
            "measurement",
            "umrt",
            "peer",
            "",
            "ratio (range)",
            "which is",
            "target",
        ]
        .map(String::from),
    ];
    for row in &report.rows {
        let (peer, name) = peer(row);
        let target = targets::verdicts(report, row);
        let meaning = meaning(report, row);
        lines.push([
            row.id(),
            value(row.unit, row.umrt().median),
            peer,
            name,
            ratio(row),
            meaning,
            target,
        ]);
    }
    let mut text = columns(&lines);
    if let (Some(best), Some(median)) = (report.best_bandwidth(), report.median_bandwidth()) {
        text += &format!(
            "\nread bandwidth: {:.1} GB/s at best, {:.1} GB/s in the middle, {} threads\n",
            best / 1e9,
            median / 1e9,
            report.machine.threads
        );
    }
    for skipped in &report.skipped {
        text += &format!("skipped {}: {}\n", skipped.what, skipped.reason);
    }
    text
}

pub fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// The rows as a table of Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = String::from(
        "| model | measured | umrt | peer | ratio (lowest to highest of the pairs) |\n|---|---|--:|--:|--:|\n",
    );
    for row in &report.rows {
        let (peer, name) = peer(row);
        text += &format!(
            "| {} | {} | {} | {peer} {name} | {} |\n",
            row.model,
            label(&row.measurement),
            value(row.unit, row.umrt().median),
            ratio(row),
        );
    }
    text
}

/// A measurement's name in words.
pub fn label(measurement: &str) -> String {
    let (kind, size) = match measurement.rsplit_once('-') {
        Some((kind, size)) if size.starts_with(|first: char| first.is_ascii_digit()) => {
            (kind, size)
        }
        _ => (measurement, ""),
    };
    match kind {
        "decode" if !size.is_empty() => format!("decode at {size} tokens"),
        "prefill" => format!("prompt of {size} tokens"),
        "batch" => format!("decode, {size} at a time"),
        "first-token" => "opening to first token".into(),
        "memory" => "anonymous memory".into(),
        "busy-core" => "decode with a busy core, share of its own speed".into(),
        "mlx-lm-decode" => "decode against mlx-lm".into(),
        "mlx-lm-prefill" => "prompt against mlx-lm".into(),
        "parallel" => format!("{size} requests at once"),
        "first-p50" => format!("first token of {size} requests, median"),
        "first-p95" => format!("first token of {size} requests, 95th percentile"),
        "fork-time" => format!("{size} forks of a sequence"),
        "fork-bytes" => "memory of a fork that goes on".into(),
        "save" => "saving a sequence".into(),
        "load" => "loading a sequence".into(),
        "prefix-hit" => "first token of a prompt that is known".into(),
        "ngram" => "decode with guesses from repetitions".into(),
        "draft" => "decode with a draft model".into(),
        "token" => "time per token with next to no weights".into(),
        other => other.into(),
    }
}

fn peer(row: &Row) -> (String, String) {
    match &row.peer {
        Some(peer) => {
            let median = super::statistics::median(&peer.values);
            (value(row.unit, median), peer.name.clone())
        }
        None => ("-".into(), String::new()),
    }
}

fn ratio(row: &Row) -> String {
    match row.advantage() {
        Some(Summary { median, min, max }) => format!("{median:.2}x ({min:.2} to {max:.2})"),
        None => "-".into(),
    }
}

pub fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::TokensPerSecond if value >= 1000.0 => format!("{value:.0} tok/s"),
        Unit::TokensPerSecond => format!("{value:.1} tok/s"),
        Unit::Seconds if value >= 1.0 => format!("{value:.2} s"),
        Unit::Seconds if value >= 1e-3 => format!("{:.1} ms", value * 1e3),
        Unit::Seconds => format!("{:.0} us", value * 1e6),
        Unit::Bytes => format!("{:.1} MB", value / 1e6),
        Unit::BytesPerSecond => format!("{:.0} MB/s", value / 1e6),
        Unit::Share => format!("{value:.2}"),
    }
}

fn meaning(report: &Report, row: &Row) -> String {
    let median = row.umrt().median;
    match row.meaning {
        Meaning::Nothing => String::new(),
        Meaning::BytesPerToken(bytes) => {
            let rate = format!("{:.1} GB/s", median * bytes as f64 / 1e9);
            match row.bandwidth_share() {
                Some(share) => format!("{rate}, {:.0}% of bandwidth", share * 100.0),
                None => rate,
            }
        }
        Meaning::FlopPerToken(flop) => format!("{:.1} GFLOP/s", median * flop as f64 / 1e9),
        Meaning::WeightBytes(bytes) => format!("{:.1}% of weights", 100.0 * median / bytes as f64),
        Meaning::RightGuesses(share) => format!("{:.0}% of guesses right", share * 100.0),
        Meaning::CacheBlockBytes(bytes) => format!("{:.2} blocks", median / bytes as f64),
        Meaning::TokensPerStep(_) => match report.batch_gain(row) {
            Some(gain) => format!("{gain:.2}x of batch 1"),
            None => String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn line_of(id: &str) -> String {
        let text = terminal(&sample::report());
        let line = text.lines().find(|line| line.starts_with(id));
        line.unwrap_or_else(|| panic!("no {id} in\n{text}")).into()
    }

    #[test]
    fn a_line_has_both_values_the_ratio_what_it_means_and_the_verdict() {
        let words: Vec<String> = line_of("1b-4bit/decode ")
            .split("  ")
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(
            words,
            [
                "1b-4bit/decode",
                "30.0 tok/s",
                "20.0 tok/s",
                "llama.cpp Q4_0",
                "1.50x (1.50 to 1.50)",
                "18.0 GB/s, 90% of bandwidth",
                ">= 1.4x ok, >= 70% of bandwidth ok"
            ]
        );
    }

    #[test]
    fn what_was_skipped_is_told() {
        assert!(terminal(&sample::report()).contains("skipped 3b-bf16: no room"));
    }

    #[test]
    fn smaller_seconds_are_a_larger_ratio() {
        assert!(line_of("1b-4bit/first-token").contains("5.00x"));
    }

    #[test]
    fn markdown_has_a_line_per_row() {
        let report = sample::report();
        let text = markdown(&report);
        assert_eq!(text.lines().count(), 2 + report.rows.len());
        assert!(
            text.contains("| 1b-4bit | decode at 8k tokens | 20.0 tok/s |"),
            "{text}"
        );
    }

    #[test]
    fn values_have_units_that_fit() {
        assert_eq!(value(Unit::Seconds, 0.000_15), "150 us");
        assert_eq!(value(Unit::Seconds, 0.25), "250.0 ms");
        assert_eq!(value(Unit::TokensPerSecond, 3210.4), "3210 tok/s");
    }
}
