//! The table in words: on the terminal and, the same, in Markdown. Both come from one grid of strings.

use crate::peers::Peer;
use crate::rows::{Bar, Speed};
use crate::table::{digits, Line};

type Grid = Vec<Vec<String>>;

pub struct Report {
    pub about: Vec<String>,
    pub peers: Vec<Peer>,
    pub lines: Vec<Line>,
}

const NONE: &str = "–";

impl Report {
    pub fn text(&self) -> String {
        let mut text = self.about.join("\n");
        for grid in [self.costs(), self.speeds()] {
            text.push_str("\n\n");
            text.push_str(&aligned(&grid));
        }
        text.push('\n');
        text.push_str(&self.faults().join("\n"));
        text
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("# Measured\n\n{}\n", self.about.join("\n"));
        for (title, grid) in [
            ("What it costs", self.costs()),
            ("What clients see", self.speeds()),
        ] {
            text.push_str(&format!("\n## {title}\n\n{}", piped(&grid)));
        }
        for fault in self.faults() {
            text.push_str(&format!("\n- {fault}"));
        }
        text.push('\n');
        text
    }

    fn costs(&self) -> Grid {
        let mut head = vec!["cost (less is better)".to_string(), "unit".to_string()];
        head.extend(self.peers.iter().map(|peer| peer.name().to_string()));
        head.extend(["÷ best peer", "÷ floor", "bar", "", "spread"].map(str::to_string));
        let mut grid = vec![head];
        for line in &self.lines {
            let mut cells = vec![line.row.title.to_string(), line.row.unit().to_string()];
            cells.extend(self.peers.iter().map(|peer| cost(line, *peer)));
            cells.push(times(line.to_best_peer()));
            cells.push(times(line.to_floor()));
            cells.push(bar(line));
            cells.push(line.verdict().word().to_string());
            let spread = line
                .cells
                .iter()
                .filter_map(|cell| cell.spread())
                .reduce(f64::max);
            cells.push(spread.map_or(NONE.to_string(), |percent| format!("{percent:.0} %")));
            grid.push(cells);
        }
        grid
    }

    fn speeds(&self) -> Grid {
        let head = [
            "clients see",
            "proxy",
            "answers/s",
            "p50 µs",
            "p99 µs",
            "core taken",
        ];
        let mut grid = vec![head.map(str::to_string).to_vec()];
        for line in &self.lines {
            for cell in &line.cells {
                let Some(sample) = cell.median() else {
                    continue;
                };
                let title = line.row.title;
                let windows = [
                    (sample.quiet, "the same, no changes"),
                    (sample.speed, title),
                ];
                for (speed, title) in windows {
                    if let Some(speed) = speed {
                        grid.push(seen(title, cell.peer, &speed));
                    }
                }
            }
        }
        grid
    }

    fn faults(&self) -> Vec<String> {
        let of_line = |line: &Line| -> Vec<String> {
            let faults = line
                .cells
                .iter()
                .filter_map(|cell| Some((cell.peer, cell.fault.as_ref()?)));
            faults
                .map(|(peer, fault)| format!("{} · {}: {fault}", line.row.title, peer.name()))
                .collect()
        };
        self.lines.iter().flat_map(of_line).collect()
    }
}

fn seen(title: &str, peer: Peer, speed: &Speed) -> Vec<String> {
    vec![
        title.to_string(),
        peer.name().to_string(),
        digits(speed.per_second),
        speed.p50_us.to_string(),
        speed.p99_us.to_string(),
        format!("{:.0} %", speed.waited * 100.0),
    ]
}

fn cost(line: &Line, peer: Peer) -> String {
    match line.cell(peer) {
        Some(cell) if cell.fault.is_some() => "failed".to_string(),
        Some(cell) => cell
            .median()
            .map_or(NONE.to_string(), |sample| digits(sample.cost)),
        None => NONE.to_string(),
    }
}

fn times(ratio: Option<f64>) -> String {
    ratio.map_or(NONE.to_string(), |ratio| format!("{ratio:.2}"))
}

fn bar(line: &Line) -> String {
    let name = match line.row.bar {
        Bar::BestPeer => "≤ best peer".to_string(),
        Bar::Haproxy => "≤ haproxy".to_string(),
        Bar::Nginx => "≤ nginx".to_string(),
        Bar::Floor(times) => format!("≤ {times:.2} floor"),
        Bar::Inside(times) => format!("≤ {times:.2} inside"),
        Bar::Below(limit) => return format!("< {limit:.0}"),
        Bar::Open => return NONE.to_string(),
    };
    line.limit()
        .map_or(name.clone(), |limit| format!("{name} ({})", digits(limit)))
}

/// Text left, figures right: the first column and those that hold words are known by their head.
fn widths(grid: &Grid) -> Vec<usize> {
    let columns = grid.first().map_or(0, Vec::len);
    let width = |column: usize| {
        grid.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect()
}

fn is_words(column: usize, head: &str) -> bool {
    column == 0 || matches!(head, "unit" | "proxy" | "bar" | "")
}

fn padded(grid: &Grid, row: &[String]) -> Vec<String> {
    let heads = grid.first().map_or(&[][..], Vec::as_slice);
    let pad = |((column, cell), width): ((usize, &String), usize)| {
        let head = heads.get(column).map_or("", String::as_str);
        match is_words(column, head) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        }
    };
    row.iter().enumerate().zip(widths(grid)).map(pad).collect()
}

fn aligned(grid: &Grid) -> String {
    let rows: Vec<String> = grid
        .iter()
        .map(|row| padded(grid, row).join("  ").trim_end().to_string())
        .collect();
    rows.join("\n")
}

fn piped(grid: &Grid) -> String {
    let mut text = String::new();
    for (number, row) in grid.iter().enumerate() {
        text.push_str(&format!("| {} |\n", padded(grid, row).join(" | ")));
        if number == 0 {
            let rule = |(column, head): (usize, &String)| {
                if is_words(column, head) {
                    "---"
                } else {
                    "---:"
                }
            };
            let rules: Vec<&str> = row.iter().enumerate().map(rule).collect();
            text.push_str(&format!("| {} |\n", rules.join(" | ")));
        }
    }
    text
}
