//! The "Speed" section of the README, rewritten from a report.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::report::Report;
use super::{chart, table};

const BEGIN: &str = "<!-- speed: written by `cargo xtask bench --readme` -->\n";
const END: &str = "<!-- speed: end -->";
const CHART: &str = "docs/images/speed.svg";

/// Rewrites the section and the picture that it shows.
pub fn update(report: &Report, root: &Path) -> Result<()> {
    let picture = chart::svg(report)
        .context("the chart shows the 1b models, and none of its rows was measured")?;
    let chart = root.join(CHART);
    fs::create_dir_all(chart.parent().context("a picture lies in a folder")?)?;
    fs::write(&chart, picture).with_context(|| format!("writing {}", chart.display()))?;
    let readme = root.join("README.md");
    let text = fs::read_to_string(&readme).context("reading README.md")?;
    fs::write(&readme, replaced(&text, &section(report))?).context("writing README.md")
}

fn section(report: &Report) -> String {
    let machine = &report.machine;
    let version = |name: &str| report.versions.get(name).map_or("", String::as_str);
    let bandwidth = report.best_bandwidth().unwrap_or(f64::NAN) / 1e9;
    format!(
        "![Tokens per second of umrt and llama.cpp]({CHART})\n\
         \n\
         Random weights of real shapes, the same bits on both sides; {threads} threads each, taking \
         turns; medians of {n_pairs} pairs. Measured on {cpu}, {threads} cores, {memory:.0} GB of memory \
         that reads {bandwidth:.1} GB/s at best, against llama.cpp (llama-cpp-python \
         {llama}, compiled for this machine) and mlx-lm {mlx_lm} on the CPU.\n\
         \n\
         {table}",
        threads = machine.threads,
        n_pairs = report
            .rows
            .iter()
            .map(|row| row.umrt.len())
            .max()
            .unwrap_or(0),
        cpu = machine.cpu,
        memory = machine.memory_bytes as f64 / 1e9,
        llama = version("llama-cpp-python"),
        mlx_lm = version("mlx-lm"),
        table = table::markdown(report),
    )
}

fn replaced(text: &str, section: &str) -> Result<String> {
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("README.md has no lines `{}` and `{END}`", BEGIN.trim_end());
    };
    let (before, after) = (&text[..begin + BEGIN.len()], &text[end..]);
    Ok(format!("{before}{section}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() -> Result<()> {
        let text = format!("before\n{BEGIN}old\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}new\n{END}\nafter\n");
        assert_eq!(replaced(&text, "new\n")?, expected);
        assert_eq!(replaced(&expected, "new\n")?, expected);
        Ok(())
    }

    #[test]
    fn a_readme_without_marks_is_left_alone() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("README.md"), "no marks")?;
        let error = update(&sample::report(), dir.path()).unwrap_err();
        assert!(error.to_string().contains("speed: end"), "{error}");
        assert_eq!(
            fs::read_to_string(dir.path().join("README.md"))?,
            "no marks"
        );
        Ok(())
    }

    #[test]
    fn the_section_shows_the_chart_the_machine_and_the_rows() {
        let text = section(&sample::report());
        for expected in [
            CHART,
            "A CPU",
            "20.0 GB/s",
            "3 pairs",
            "| 1b-4bit | decode |",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }
}
