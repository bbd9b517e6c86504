//! A report as a picture: for each of the main measurements a bar for umrt and
//! one for its peer, in multiples of the peer.

use super::report::{Report, Row};
use super::statistics::median;
use super::table::value;

const ROWS: &[(&str, &str)] = &[
    ("1b-4bit/decode", "decode, 4 bits"),
    ("1b-4bit/decode-8k", "decode at 8k, 4 bits"),
    ("1b-4bit/batch-4", "4 at a time, 4 bits"),
    ("1b-4bit/prefill-512", "prompt, 4 bits"),
    ("1b-bf16/decode", "decode, bfloat16"),
    ("1b-bf16/prefill-512", "prompt, bfloat16"),
];

const WIDTH: f64 = 720.0;
const TOP: f64 = 44.0;
const GROUP: f64 = 46.0;
const BAR: f64 = 15.0;
const LABELS: f64 = 170.0;
/// Room for the text behind the longest bar.
const VALUES: f64 = 150.0;

// Readable on white and on nearly black.
const INK: &str = "#76828f";
const UMRT: &str = "#2f81f7";
const PEER: &str = "#9aa4af";

/// An SVG image; `None` if none of its measurements was taken.
pub fn svg(report: &Report) -> Option<String> {
    let groups: Vec<(&str, &Row)> = ROWS
        .iter()
        .filter_map(|(id, label)| Some((*label, report.row(id)?)))
        .filter(|(_, row)| row.peer.is_some())
        .collect();
    let longest = groups
        .iter()
        .filter_map(|(_, row)| Some(row.advantage()?.median.max(1.0)))
        .reduce(f64::max)?;
    let scale = (WIDTH - LABELS - VALUES) / longest;
    let height = TOP + GROUP * groups.len() as f64 + 4.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>Tokens per second of umrt and llama.cpp</title>\n"
    );
    svg += &legend();
    for (index, (label, row)) in groups.iter().enumerate() {
        svg += &group(label, row, TOP + GROUP * index as f64, scale)?;
    }
    svg += "</svg>\n";
    Some(svg)
}

fn legend() -> String {
    let entry = |x: f64, color: &str, name: &str| {
        format!("<rect x=\"{x}\" y=\"13\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{color}\"/>\n")
            + &text(x + 18.0, 23.5, "", name)
    };
    entry(LABELS, UMRT, "umrt") + &entry(LABELS + 80.0, PEER, "llama.cpp")
}

fn group(label: &str, row: &Row, y: f64, scale: f64) -> Option<String> {
    let peer = row.peer.as_ref()?;
    let ratio = row.advantage()?.median;
    let umrt_label = format!("{} ({ratio:.2}x)", value(row.unit, row.umrt().median));
    let peer_label = value(row.unit, median(&peer.values));
    let end_anchor = " text-anchor=\"end\"";
    Some(
        text(LABELS - 12.0, y + BAR + 5.0, end_anchor, label)
            + &bar(y, ratio * scale, UMRT, &umrt_label)
            + &bar(y + BAR + 3.0, scale, PEER, &peer_label),
    )
}

fn bar(y: f64, length: f64, color: &str, label: &str) -> String {
    format!(
        "<rect x=\"{LABELS}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>\n"
    ) + &text(LABELS + length + 8.0, y + BAR - 3.0, "", label)
}

fn text(x: f64, y: f64, attributes: &str, content: &str) -> String {
    let escaped = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\"{attributes}>{escaped}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    /// Widths of the bars, umrt's and the peer's in turns.
    fn bar_widths(svg: &str) -> Vec<f64> {
        let bars = svg
            .lines()
            .filter(|line| line.contains(&format!("height=\"{BAR}\"")));
        let width = |line: &str| {
            line.split("width=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        bars.filter_map(width).collect()
    }

    #[test]
    fn bars_are_as_long_as_the_ratio_says() {
        let widths = bar_widths(&svg(&sample::report()).unwrap());
        assert_eq!(widths.len(), 8);
        assert!((widths[0] / widths[1] - 1.5).abs() < 0.01, "{widths:?}");
    }

    #[test]
    fn the_longest_bar_leaves_room_for_its_text() {
        let mut report = sample::report();
        report.rows[0].umrt = vec![2000.0; 3];
        let widths = bar_widths(&svg(&report).unwrap());
        let longest = widths.into_iter().reduce(f64::max).unwrap();
        assert!(
            (longest - (WIDTH - LABELS - VALUES)).abs() < 1.0,
            "{longest}"
        );
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        let mut report = sample::report();
        report.rows.clear();
        assert!(svg(&report).is_none());
    }
}
