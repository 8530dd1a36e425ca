//! A plot of times against world sizes, as SVG.

use std::fmt::Write as _;

/// What one case takes in worlds of several sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What is written beside it.
    pub name: String,
    /// World size, seconds in the model, seconds by the formula.
    pub points: Vec<(usize, f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours that people with any kind of colour vision tell apart.
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Decades of microseconds that the plot spans.
const DECADES: (i32, i32) = (0, 6);

/// Draws circles for the model and lines for the formulas, both axes logarithmic, for worlds of 2 to
/// 64 ranks.
pub fn render_plot(title: &str, curves: &[Curve]) -> String {
    let mut svg = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(svg, "{text}").expect("writing to a String cannot fail");
    };
    line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">"
    ));
    line(format_args!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>"));
    line(format_args!("<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>"));
    for exponent in 1..=6 {
        let (at, ranks) = (x(1 << exponent), 1 << exponent);
        line(format_args!(
            "<path d=\"M{at:.1} {TOP} V{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{ranks}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 18.0
        ));
    }
    for decade in DECADES.0..=DECADES.1 {
        let at = y(1e-6 * 10_f64.powi(decade));
        let label = match decade {
            0..=2 => format!("{} us", 10_u32.pow(decade.unsigned_abs())),
            3..=5 => format!("{} ms", 10_u32.pow((decade - 3).unsigned_abs())),
            _ => format!("{} s", 10_u32.pow((decade - 6).unsigned_abs())),
        };
        line(format_args!(
            "<path d=\"M{LEFT} {at:.1} H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        ));
    }
    line(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">ranks</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    ));
    for (curve, colour) in curves.iter().zip(COLOURS.into_iter().cycle()) {
        let mut path = String::new();
        for (index, (ranks, _, formula)) in curve.points.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            write!(path, "{verb}{:.1} {:.1}", x(*ranks), y(*formula))
                .expect("writing to a String cannot fail");
        }
        line(format_args!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>"));
        for (ranks, simulated, _) in &curve.points {
            line(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*ranks),
                y(*simulated)
            ));
        }
        if let Some((_, simulated, _)) = curve.points.last() {
            line(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
                WIDTH - RIGHT + 8.0,
                y(*simulated) + 4.0,
                curve.name
            ));
        }
    }
    line(format_args!("</svg>"));
    svg
}

fn x(ranks: usize) -> f64 {
    let ranks = f64::from(u32::try_from(ranks).unwrap_or(u32::MAX));
    LEFT + (ranks.log2() - 1.0) / 5.0 * (WIDTH - LEFT - RIGHT)
}

fn y(seconds: f64) -> f64 {
    let (low, high) = (f64::from(DECADES.0), f64::from(DECADES.1));
    let decade = (seconds * 1e6).log10().clamp(low, high);
    HEIGHT - BOTTOM - (decade - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
}
