//! Report: samples -> the two tables and the JSON file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::contender::Sample;
use crate::forms::Layer;
use crate::peak::Roof;

/// All samples of one contender on so many threads.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) threads: usize,
    /// One per round, or why there is none.
    pub(crate) samples: Result<Vec<Sample>, String>,
}

/// The figures of a row.
struct Figures {
    wall_ms: f64,
    cpu_ms: f64,
    peak_mb: f64,
    equal: Option<f64>,
    n_runs: usize,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn figures(row: &Row) -> Option<Figures> {
    let samples = row.samples.as_ref().ok()?;
    let all = |pick: fn(&Sample) -> &[f64]| samples.iter().flat_map(|sample| pick(sample).iter().copied()).collect::<Vec<_>>();
    let wall = all(|sample| &sample.wall_ms);
    Some(Figures {
        n_runs: wall.len(),
        wall_ms: median(wall),
        cpu_ms: median(all(|sample| &sample.cpu_ms)),
        peak_mb: samples.iter().map(|sample| sample.peak_mb).fold(0.0, f64::max),
        equal: samples.iter().filter_map(|sample| sample.equal).min_by(f64::total_cmp),
    })
}

fn equality(equal: Option<f64>) -> String {
    match equal {
        Some(1.0) => "bit for bit".to_owned(),
        Some(part) => format!("{:.3} % of bytes", 100.0 * part),
        None => "-".to_owned(),
    }
}

/// The contenders as a Markdown table. Ratios are a row's time over ours on as many threads; on a busy machine
/// processor time says more than wall time.
pub(crate) fn contenders(rows: &[Row]) -> String {
    let ours: BTreeMap<usize, Figures> =
        rows.iter().filter(|row| row.name == "ours").filter_map(|row| Some((row.threads, figures(row)?))).collect();
    let mut text = String::from(
        "| contender | threads | wall ms | CPU ms | peak MB | wall / ours | CPU / ours | output = golden |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for row in rows {
        let _ = match (&row.samples, figures(row)) {
            (Ok(_), Some(f)) => {
                let over = |pick: fn(&Figures) -> f64| {
                    ours.get(&row.threads).map_or("-".to_owned(), |ours| format!("{:.2}", pick(&f) / pick(ours)))
                };
                writeln!(
                    text,
                    "| {} | {} | {:.1} | {:.1} | {:.0} | {} | {} | {} |",
                    row.label,
                    row.threads,
                    f.wall_ms,
                    f.cpu_ms,
                    f.peak_mb,
                    over(|f| f.wall_ms),
                    over(|f| f.cpu_ms),
                    equality(f.equal)
                )
            }
            (Err(why), _) => writeln!(text, "| {} | {} | skipped: {why} | | | | | |", row.label, row.threads),
            (Ok(_), None) => Ok(()),
        };
    }
    text
}

/// What issue 4 asks of x86-64, and what came out. Times are compared by the processor's, which other work on the machine disturbs least, but
/// threads by the wall's.
pub(crate) fn aims(rows: &[Row]) -> String {
    let of = |name: &str, threads: usize| rows.iter().find(|row| row.name == name && row.threads == threads).and_then(figures);
    let Some(ours) = of("ours", 1) else { return String::new() };
    let mut text = String::new();
    let mut aim = |what: &str, value: f64, reached: bool| {
        let _ = writeln!(text, "- {what}: {value:.2}, {}", if reached { "reached" } else { "MISSED" });
    };
    if let Some(float) = of("ort-float", 1) {
        let ratio = ours.cpu_ms / float.cpu_ms;
        aim("CPU time over ONNX Runtime float, aim at most 0.6", ratio, ratio <= 0.6);
    }
    let int8 =
        rows.iter().filter(|row| row.threads == 1 && (row.name.starts_with("ort-int8") || row.name.starts_with("ort-qdq")));
    if let Some(best) = int8.filter_map(figures).map(|f| f.cpu_ms).min_by(f64::total_cmp) {
        aim("CPU time over ONNX Runtime's best int8, aim below 1", ours.cpu_ms / best, ours.cpu_ms < best);
    }
    aim("peak memory, aim at most 100 MB", ours.peak_mb, ours.peak_mb <= 100.0);
    if let Some(two) = of("ours", 2) {
        let gain = ours.wall_ms / two.wall_ms;
        aim("two threads over one, aim at least 1.8 (needs two idle cores)", gain, gain >= 1.8);
    }
    text
}

/// Our layers under the roof, as a Markdown table.
pub(crate) fn roofline(row: &Row, layers: &[Layer], roof: Roof) -> String {
    let mut text = String::new();
    let Ok(samples) = &row.samples else { return text };
    let peak = roof.int8_gmacs.map_or("unknown".to_owned(), |peak| format!("{peak:.1} GMAC/s"));
    let _ = writeln!(text, "int8 peak of one core: {peak} ({}); copy: {:.1} GB/s\n", roof.how, roof.gb_per_s);
    text.push_str("| operator | MMAC | MAC/byte | ms | GMAC/s | share of peak | share of roof |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n");
    let share = |part: f64| format!("{:.0} %", 100.0 * part);
    let (mut macs_all, mut ms_all) = (0.0, 0.0);
    let names = samples.first().map_or(&[][..], |sample| &sample.layers);
    for (at, (name, _)) in names.iter().enumerate() {
        let ms = median(samples.iter().filter_map(|sample| Some(sample.layers.get(at)?.1)).collect());
        let (macs, bytes) = work(name, layers);
        macs_all += macs;
        ms_all += ms;
        let gmacs = macs / ms / 1e6;
        let under_roof = roof.int8_gmacs.map(|peak| gmacs / peak.min(macs / bytes * roof.gb_per_s));
        let _ = if macs > 0.0 {
            writeln!(
                text,
                "| {name} | {:.1} | {:.1} | {ms:.2} | {gmacs:.1} | {} | {} |",
                macs / 1e6,
                macs / bytes,
                roof.int8_gmacs.map_or("-".to_owned(), |peak| share(gmacs / peak)),
                under_roof.map_or("-".to_owned(), share)
            )
        } else {
            writeln!(text, "| {name} | - | - | {ms:.2} | | | {} of copying |", share(bytes / ms / 1e6 / roof.gb_per_s))
        };
    }
    let gmacs = macs_all / ms_all / 1e6;
    let of_peak = roof.int8_gmacs.map_or("-".to_owned(), |peak| share(gmacs / peak));
    let _ = writeln!(text, "| all | {:.1} | | {ms_all:.2} | {gmacs:.1} | {of_peak} | |", macs_all / 1e6);
    text
}

/// Multiply-adds and bytes of the operator `name`; an operator made of several nodes names each of them.
fn work(name: &str, layers: &[Layer]) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for part in name.split(|c: char| !c.is_alphanumeric() && c != '_') {
        for layer in layers.iter().filter(|layer| layer.name == part) {
            #[allow(clippy::cast_precision_loss)] // far below 2^52
            let (macs, bytes) = (layer.macs as f64, layer.bytes as f64);
            sum = (sum.0 + macs, sum.1 + bytes);
        }
    }
    sum
}

/// Everything, for machines: medians and every single sample.
pub(crate) fn to_json(rows: &[Row], layers: &[Layer], roof: Roof) -> Value {
    let row = |row: &Row| {
        let figures = figures(row).map(
            |f| json!({"wall_ms": f.wall_ms, "cpu_ms": f.cpu_ms, "peak_mb": f.peak_mb, "equal": f.equal, "n_runs": f.n_runs}),
        );
        json!({"name": row.name, "label": row.label, "threads": row.threads, "median": figures,
               "samples": row.samples.as_ref().ok(), "skipped": row.samples.as_ref().err()})
    };
    let layers: Vec<_> = layers.iter().map(|l| json!({"name": l.name, "macs": l.macs, "bytes": l.bytes})).collect();
    json!({"schema": "scanside.bench.engines/1", "contenders": rows.iter().map(row).collect::<Vec<_>>(), "layers": layers,
           "roof": {"int8_gmacs": roof.int8_gmacs, "how": roof.how, "copy_gb_per_s": roof.gb_per_s}})
}
