//! Plots for the documents: which share of the values lies below a time.

use std::{env, fmt::Write, fs, path::Path};

use crate::{Result, figures::quantile};

/// Where the curves are drawn inside of the picture: left, top, width, height.
const AREA: (f64, f64, f64, f64) = (60.0, 40.0, 560.0, 260.0);
const COLOURS: [&str; 4] = ["#2266cc", "#22aa66", "#cc6622", "#884499"];

/// Writes `name.svg` into the folder `$BENCH_PLOTS` when that is set.
pub(crate) fn shares(name: &str, title: &str, curves: &[(&str, &[f64])]) -> Result<()> {
    let Some(folder) = env::var_os("BENCH_PLOTS") else { return Ok(()) };
    fs::create_dir_all(&folder)?;
    let path = Path::new(&folder).join(format!("{name}.svg"));
    fs::write(&path, draw(title, curves)?)?;
    println!("plot: {}", path.display());
    Ok(())
}

fn draw(title: &str, curves: &[(&str, &[f64])]) -> Result<String> {
    let (left, top, width, height) = AREA;
    let most = curves.iter().flat_map(|c| c.1).copied().fold(1.0, f64::max);
    let step = round_up(most / 8.0);
    let most = (most / step).ceil() * step;
    let x = |value: f64| left + value / most * width;
    let y = |share: f64| top + (1.0 - share) * height;
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 370\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"640\" height=\"370\" fill=\"white\"/>\n",
    );
    writeln!(svg, "<text x=\"{left}\" y=\"22\" font-size=\"14\">{title}</text>")?;
    let mut at = 0.0;
    while at <= most {
        let (x, bottom) = (x(at), top + height);
        writeln!(svg, "<path d=\"M{x:.1} {top} V{bottom}\" stroke=\"#ddd\"/>")?;
        let under = bottom + 16.0;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{under}\" text-anchor=\"middle\">{at}</text>")?;
        at += step;
    }
    for percent in [0, 25, 50, 75, 90, 100] {
        let y = y(f64::from(percent) / 100.0);
        writeln!(svg, "<path d=\"M{left} {y:.1} h{width}\" stroke=\"#ddd\"/>")?;
        let (beside, middle) = (left - 6.0, y + 4.0);
        writeln!(
            svg,
            "<text x=\"{beside}\" y=\"{middle:.1}\" text-anchor=\"end\">{percent} %</text>"
        )?;
    }
    for (i, (name, values)) in curves.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<String> = (0..=200)
            .map(|n| f64::from(n) / 200.0)
            .map(|share| format!("{:.1},{:.1}", x(quantile(values, share)), y(share)))
            .collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        )?;
        let (across, down) = (left + 150.0 * i as f64, top + height + 45.0);
        writeln!(svg, "<text x=\"{across}\" y=\"{down}\" fill=\"{colour}\">{name}</text>")?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// 1, 2 or 5 times a power of ten, not below the value.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|n| *n >= value).unwrap_or(value)
}
