//! The figures as a picture: how much of what is allowed each of them uses up.

use std::path::Path;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    figure::{Figure, Report, Verdict},
    statistics::Estimate,
};

const WIDTH: u32 = 1000;
const ROW: u32 = 26;
const LABELS: i32 = 520;
const FRAME: u32 = 60;

/// Draws the figures for which something is to be reached into an SVG file: a dot for the median, a bar for its 95 %
/// bounds, a line where the limit is.
///
/// # Errors
/// Where the file cannot be written.
pub fn draw(report: &Report, file: &Path) -> anyhow::Result<()> {
    let rows: Vec<(&Figure, Estimate)> = report
        .figures
        .iter()
        .filter_map(|figure| Some((figure, figure.used()?)))
        .collect();
    let height = u32::try_from(rows.len())? * ROW + 2 * FRAME;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let widest = rows
        .iter()
        .fold(1.2, |widest: f64, (_, used)| widest.max(used.high));
    let bottom = rows.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Used of what is allowed (left of the line is reached)",
            ("sans-serif", 18),
        )
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .x_label_area_size(30)
        .build_cartesian_2d(0.0..widest.min(3.0) * 1.02, bottom..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .draw()?;
    chart.draw_series(LineSeries::new(
        [(1.0, 0.0), (1.0, bottom)],
        BLACK.stroke_width(2),
    ))?;
    for (index, (figure, used)) in rows.iter().enumerate() {
        let y = index as f64 + 0.5;
        let color = match figure.verdict() {
            Some(Verdict::Reached) => RGBColor(0, 128, 90),
            Some(Verdict::Missed) => RGBColor(200, 30, 60),
            _ => RGBColor(220, 150, 0),
        };
        let bar = [(used.low, y), (used.high, y)];
        chart.draw_series(LineSeries::new(bar, color.stroke_width(4)))?;
        chart.draw_series([Circle::new((used.median, y), 5, color.filled())])?;
        let style = ("sans-serif", 13)
            .into_text_style(&root)
            .pos(Pos::new(HPos::Right, VPos::Center));
        let at = chart.backend_coord(&(0.0, y));
        root.draw_text(
            &format!("{}: {}", figure.suite, figure.what),
            &style,
            (at.0 - 10, at.1),
        )?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::Reach;

    #[test]
    fn what_nothing_is_to_be_reached_for_is_not_drawn() -> anyhow::Result<()> {
        let figure = |what: &str, reach| Figure {
            suite: "scale".to_owned(),
            what: what.to_owned(),
            unit: "s".to_owned(),
            measured: Estimate::of(&[1.0, 2.0, 3.0]),
            against: None,
            reach,
            samples: vec![1.0, 2.0, 3.0],
        };
        let report = Report {
            kernel: String::new(),
            processors: String::new(),
            load: 0.0,
            figures: vec![
                figure("start", Some(Reach::AtMost(2.5))),
                figure("idle", None),
            ],
        };
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("plot.svg");
        draw(&report, &file)?;
        let text = std::fs::read_to_string(file)?;
        assert!(
            text.contains("scale: start") && text.ends_with("</svg>\n"),
            "{text}"
        );
        assert!(!text.contains("idle"), "{text}");
        Ok(())
    }
}
