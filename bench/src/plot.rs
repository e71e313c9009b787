//! Lines over a logarithmic axis of tokens, as SVG without dependencies.

use std::fmt::Write as _;

use crate::report::tokens_label;

const WIDTH: f64 = 730.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Dark enough for a light background, and apart for colour-blind eyes (Okabe and Ito's set).
const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];

/// A picture of some lines.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) lines: Vec<Line>,
    /// Ends of the vertical axis, where they do not follow from the lines.
    pub(crate) y_range: Option<(f64, f64)>,
}

/// Points `(tokens, value)` in the order of tokens. Zero tokens stand at the left edge, apart from the others.
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(u64, f64)>,
    /// A line that stands behind the others: one book of many.
    pub(crate) faint: bool,
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let ticks = self.ticks();
        let (low, high) = self.y_range.unwrap_or_else(|| self.spread());
        let x_of = |tokens: u64| place(&ticks, tokens);
        let y_of = |value: f64| TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let right = WIDTH - RIGHT;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let mut text = |x: f64, y: f64, more: &str, words: &str| {
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{}</text>", escaped(words));
        };
        text(LEFT, 28.0, "font-size=\"16\" font-weight=\"bold\"", self.title);
        text(f64::midpoint(LEFT, right), HEIGHT - 16.0, "text-anchor=\"middle\"", self.x);
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 18 {middle:.1})\"");
        text(18.0, middle, &turned, self.y);
        for &tokens in &ticks {
            text(x_of(tokens), HEIGHT - BOTTOM + 20.0, "text-anchor=\"middle\"", &tokens_label(tokens));
        }
        let step = round_step((high - low) / 5.0);
        let mut value = (low / step).ceil() * step;
        let mut grid = String::new();
        while value <= high + step * 1e-6 {
            let y = y_of(value);
            text(LEFT - 8.0, y + 4.0, "text-anchor=\"end\"", &number(value, step));
            let _ = writeln!(grid, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
            value += step;
        }
        svg.push_str(&grid);
        let mut named = 0;
        for line in &self.lines {
            let color = if line.faint { "#bbb" } else { COLORS[named % COLORS.len()] };
            let points: Vec<String> =
                line.points.iter().map(|&(t, v)| format!("{:.1},{:.1}", x_of(t), y_of(v))).collect();
            let width = if line.faint { 1.0 } else { 2.5 };
            // Beyond the colours, lines are told apart by dashes.
            let dashes = if !line.faint && named >= COLORS.len() { " stroke-dasharray=\"7 5\"" } else { "" };
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\"{dashes}/>",
                points.join(" ")
            );
            if line.faint {
                continue;
            }
            for point in &points {
                let (x, y) = point.split_once(',').unwrap_or_default();
                let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3.5\" fill=\"{color}\"/>");
            }
            let y = TOP + 10.0 + 22.0 * named as f64;
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}h18\" stroke=\"{color}\" stroke-width=\"3\"{dashes}/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                right + 12.0,
                y - 4.0,
                right + 36.0,
                escaped(&line.label)
            );
            named += 1;
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Every number of tokens that a line has a point at.
    fn ticks(&self) -> Vec<u64> {
        let mut ticks: Vec<u64> = self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.0)).collect();
        ticks.sort_unstable();
        ticks.dedup();
        ticks
    }

    /// The values, with some room above and below.
    fn spread(&self) -> (f64, f64) {
        let values = || self.lines.iter().flat_map(|l| l.points.iter().map(|p| p.1)).filter(|v| v.is_finite());
        let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
        if low > high {
            return (0.0, 1.0);
        }
        let room = ((high - low) * 0.08).max(1e-3);
        (low - room, high + room)
    }
}

/// Where a number of tokens stands: by its logarithm, and zero a step left of the smallest.
fn place(ticks: &[u64], tokens: u64) -> f64 {
    let log = |tokens: u64| (tokens as f64).log2();
    let smallest = ticks.iter().copied().find(|&t| t > 0).map_or(0.0, log);
    let zero = if ticks.first() == Some(&0) { smallest - 1.5 } else { smallest };
    let largest = ticks.last().copied().filter(|&t| t > 0).map_or(zero + 1.0, log).max(zero + 1.0);
    let at = if tokens == 0 { zero } else { log(tokens) };
    LEFT + 20.0 + (at - zero) / (largest - zero) * (WIDTH - RIGHT - LEFT - 40.0)
}

/// 1, 2 or 5 times a power of ten, at least `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&step| step >= rough).unwrap_or(power)
}

fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.digits$}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_in_order_within_the_frame() {
        let ticks = [0, 2_000, 8_000, 1_000_000];
        let places = ticks.map(|t| place(&ticks, t));
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(places[0] >= LEFT && places[3] <= WIDTH - RIGHT);
    }

    #[test]
    fn a_plot_shows_its_words_and_points() {
        let line = Line { label: "a < b".into(), points: vec![(0, 1.0), (8_000, 2.0)], faint: false };
        let svg = Plot { title: "t", x: "tokens", y: "perplexity", lines: vec![line], y_range: None }.svg();
        for part in ["a &lt; b", "8k", "perplexity", "</svg>"] {
            assert!(svg.contains(part), "{part}");
        }
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn steps_are_round() {
        assert!((round_step(0.13) - 0.2).abs() < 1e-9 && (round_step(30.0) - 50.0).abs() < 1e-9);
    }
}
