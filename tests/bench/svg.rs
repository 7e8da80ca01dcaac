//! The chart: one panel per row, one bar per proxy, drawn as text. Units differ between rows and the ratios are what counts,
//! so each panel has its own scale, from zero. It follows the reader's light or dark scheme.

use std::fmt::Write;

use crate::peers::Peer;
use crate::table::{digits, Line, Verdict};

const WIDTH: usize = 960;
const MARGIN: usize = 28;
const COLUMNS: usize = 2;
const GUTTER: usize = 44;
const TOP: usize = 76;
const TITLE_H: usize = 26;
const BAR_H: usize = 15;
const BAR_STEP: usize = 21;
const PANEL_GAP: usize = 22;
const NAME_W: usize = 62;
const VALUE_W: usize = 58;

const PANEL_W: usize = (WIDTH - 2 * MARGIN - GUTTER * (COLUMNS - 1)) / COLUMNS;
const BARS_W: usize = PANEL_W - NAME_W - VALUE_W;

const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#3d444d}\
.page{fill:#fff}.head{font-size:19px;font-weight:600;fill:#1f2328}.title{font-weight:600;fill:#1f2328}\
.name,.value{text-anchor:end}.quiet,.unit{fill:#6e7781;font-weight:400}.unit{font-size:12px}\
.strong{font-weight:600;fill:#1f2328}.axis{stroke:#d0d7de}.bar{stroke:#8c959f;stroke-dasharray:3 3}\
.floor{fill:#d8dee4}.haproxy{fill:#8fa3b8}.nginx{fill:#b9a58f}.sozu{fill:#0f6fde}\
.pass{fill:#1a7f37;font-weight:600}.miss{fill:#cf222e;font-weight:600}\
@media (prefers-color-scheme:dark){text{fill:#b4bcc6}.page{fill:#0d1117}.head,.title,.strong{fill:#f0f3f6}\
.quiet,.unit{fill:#8b949e}.axis{stroke:#30363d}.bar{stroke:#6e7681}.floor{fill:#343b44}.haproxy{fill:#5c7187}\
.nginx{fill:#86745f}.sozu{fill:#4c9dff}.pass{fill:#56d364}.miss{fill:#ff7b72}}";

struct Place {
    x: usize,
    y: usize,
}

/// Columns are filled downwards, so that the first row of the table is the first panel.
pub fn chart(lines: &[Line], about: &str) -> String {
    let shown: Vec<&Line> = lines.iter().filter(|line| !bars(line).is_empty()).collect();
    let per_column = shown.len().div_ceil(COLUMNS).max(1);
    let mut panels = String::new();
    let mut height = TOP;
    for (column, lines) in shown.chunks(per_column).enumerate() {
        let mut place = Place {
            x: MARGIN + column * (PANEL_W + GUTTER),
            y: TOP,
        };
        for line in lines {
            panels.push_str(&panel(line, &place));
            place.y += panel_height(line);
        }
        height = height.max(place.y);
    }
    let head = format!(
        "<text class=\"head\" x=\"{MARGIN}\" y=\"36\">Processor time and memory by proxy</text>\
         <text class=\"quiet\" x=\"{MARGIN}\" y=\"57\">Less is better; the dashed line is the bar to stay within. {}</text>\n",
        escaped(about)
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Processor time and memory by proxy\">\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
         {head}{panels}</svg>\n"
    )
}

fn bars(line: &Line) -> Vec<(Peer, f64)> {
    line.cells
        .iter()
        .filter_map(|cell| Some((cell.peer, cell.median()?.cost)))
        .collect()
}

fn panel_height(line: &Line) -> usize {
    TITLE_H + bars(line).len() * BAR_STEP + PANEL_GAP
}

fn panel(line: &Line, at: &Place) -> String {
    let bars = bars(line);
    let most = bars
        .iter()
        .map(|bar| bar.1)
        .chain(line.limit())
        .fold(f64::MIN_POSITIVE, f64::max);
    let width = |cost: f64| cost / most * BARS_W as f64;
    let left = at.x + NAME_W + 8;
    let top = at.y + TITLE_H - 6;
    let bottom = top + bars.len() * BAR_STEP - (BAR_STEP - BAR_H);
    let mut out = title(line, at);
    for (number, (peer, cost)) in bars.iter().enumerate() {
        let y = top + number * BAR_STEP;
        let text_y = y + BAR_H - 3;
        let strong = if *peer == Peer::Sozu { " strong" } else { "" };
        let length = width(*cost).max(1.0);
        let _ = writeln!(
            out,
            "<text class=\"name{strong}\" x=\"{}\" y=\"{text_y}\">{name}</text>\
             <rect class=\"{name}\" x=\"{left}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR_H}\" rx=\"2\"/>\
             <text class=\"value{strong}\" x=\"{}\" y=\"{text_y}\">{}</text>",
            at.x + NAME_W,
            at.x + PANEL_W,
            digits(*cost),
            name = peer.name(),
        );
    }
    let _ = writeln!(
        out,
        "<line class=\"axis\" x1=\"{left}\" x2=\"{left}\" y1=\"{}\" y2=\"{}\"/>",
        top - 3,
        bottom + 3
    );
    if let Some(limit) = line.limit() {
        let x = left as f64 + width(limit);
        let _ = writeln!(
            out,
            "<line class=\"bar\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>",
            top - 3,
            bottom + 3
        );
    }
    out
}

fn title(line: &Line, at: &Place) -> String {
    let mark = match line.verdict() {
        Verdict::Pass => "<tspan class=\"pass\" dx=\"7\">✓</tspan>",
        Verdict::Miss => "<tspan class=\"miss\" dx=\"7\">✗</tspan>",
        Verdict::Open => "",
    };
    format!(
        "<text class=\"title\" x=\"{}\" y=\"{}\">{}<tspan class=\"unit\" dx=\"7\">{}</tspan>{mark}</text>\n",
        at.x,
        at.y + 10,
        escaped(line.row.title),
        line.row.unit(),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
