//! Plots as SVG: lines over a logarithmic axis.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Space for axes and text: left, right, top, bottom.
const MARGIN: [f64; 4] = [70.0, 20.0, 40.0, 55.0];

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) color: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot over a logarithmic x axis and a linear y axis.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x_title: &'static str,
    pub(super) y_title: &'static str,
    /// The highest value of the y axis; 0 is the lowest.
    pub(super) y_max: f64,
    pub(super) series: Vec<Series>,
}

impl Plot {
    /// The whole file; `None` without any point.
    pub(super) fn svg(&self) -> Option<String> {
        let range = self.x_range()?;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        svg += &text(WIDTH / 2.0, 22.0, "middle", &self.title);
        svg += &self.x_axis(range);
        svg += &self.y_axis();
        for (number, series) in self.series.iter().enumerate() {
            svg += &self.line(series, range);
            svg += &legend(series, number);
        }
        svg += "</svg>\n";
        Some(svg)
    }

    /// The whole powers of ten around all points.
    fn x_range(&self) -> Option<(f64, f64)> {
        let xs = || self.series.iter().flat_map(|s| &s.points).map(|(x, _)| x.log10());
        let low = xs().min_by(f64::total_cmp)?.floor();
        let high = xs().max_by(f64::total_cmp)?.ceil();
        Some((low, if high > low { high } else { low + 1.0 }))
    }

    fn x_axis(&self, (low, high): (f64, f64)) -> String {
        let [left, right, top, bottom] = MARGIN;
        let base = HEIGHT - bottom;
        let mut svg = String::new();
        for exponent in low as i32..=high as i32 {
            for step in 1..10 {
                let value = f64::from(step) * 10f64.powi(exponent);
                let x = place_x(value, (low, high));
                if x > WIDTH - right + 0.5 {
                    break;
                }
                let color = if step == 1 { "#bbb" } else { "#eee" };
                svg += &rule([x, top, x, base], color);
                if matches!(step, 1 | 2 | 5) {
                    svg += &text(x, base + 17.0, "middle", &short(value));
                }
            }
        }
        svg + &text(f64::midpoint(left, WIDTH - right), HEIGHT - 12.0, "middle", self.x_title)
    }

    fn y_axis(&self) -> String {
        let [left, right, top, bottom] = MARGIN;
        let mut svg = String::new();
        for tenth in (0..=10).step_by(2) {
            let value = self.y_max * f64::from(tenth) / 10.0;
            let y = self.place_y(value);
            svg += &rule([left, y, WIDTH - right, y], "#bbb");
            svg += &text(left - 8.0, y + 4.0, "end", &short(value));
        }
        let middle = f64::midpoint(top, HEIGHT - bottom);
        let _ = writeln!(
            svg,
            "<text x=\"18\" y=\"{middle:.1}\" text-anchor=\"middle\" \
             transform=\"rotate(-90 18 {middle:.1})\">{}</text>",
            escape(self.y_title)
        );
        svg
    }

    fn line(&self, series: &Series, range: (f64, f64)) -> String {
        let place =
            |(x, y): &(f64, f64)| format!("{:.1},{:.1}", place_x(*x, range), self.place_y(*y));
        let points: Vec<String> = series.points.iter().map(place).collect();
        format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>\n",
            series.color,
            points.join(" ")
        )
    }

    fn place_y(&self, value: f64) -> f64 {
        let [_, _, top, bottom] = MARGIN;
        let share = (value / self.y_max).clamp(0.0, 1.0);
        HEIGHT - bottom - share * (HEIGHT - top - bottom)
    }
}

fn place_x(value: f64, (low, high): (f64, f64)) -> f64 {
    let [left, right, _, _] = MARGIN;
    left + (value.log10() - low) / (high - low) * (WIDTH - left - right)
}

fn legend(series: &Series, number: usize) -> String {
    let (x, y) = (MARGIN[0] + 14.0, MARGIN[2] + 20.0 + 20.0 * number as f64);
    format!(
        "<rect x=\"{x}\" y=\"{:.1}\" width=\"22\" height=\"4\" fill=\"{}\"/>\n{}",
        y - 6.0,
        series.color,
        text(x + 30.0, y, "start", &series.name)
    )
}

fn rule([x1, y1, x2, y2]: [f64; 4], color: &str) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>\n"
    )
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>\n", escape(text))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A number beside an axis.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{}", (v * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::{Plot, Series, place_x, short};

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series = Series { name: "a < b".into(), color: "#000", points };
        Plot { title: "t".into(), x_title: "x", y_title: "y", y_max: 1.0, series: vec![series] }
    }

    #[test]
    fn nothing_is_no_plot() {
        assert_eq!(plot(Vec::new()).svg(), None);
    }

    #[test]
    fn points_lie_where_they_should() {
        let svg = plot(vec![(10.0, 0.0), (100.0, 1.0), (1000.0, 0.5)]).svg().unwrap();
        assert!(svg.contains("points=\"70.0,365.0 405.0,40.0 740.0,202.5\""), "{svg}");
        assert!(svg.contains(">a &lt; b</text>"), "{svg}");
        let opened = svg.matches("<text").count();
        assert_eq!(opened, svg.matches("</text>").count());
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn one_point_has_an_axis_too() {
        let one = plot(vec![(10.0, 0.5)]);
        assert_eq!(one.x_range(), Some((1.0, 2.0)));
        assert!(one.svg().is_some());
        assert!((place_x(10.0, (1.0, 2.0)) - 70.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_beside_an_axis_are_short() {
        for (value, text) in [(0.2, "0.2"), (50.0, "50"), (20_000.0, "20k"), (1e6, "1M")] {
            assert_eq!(short(value), text);
        }
        assert_eq!(short(0.6 * 100.0), "60");
    }
}
