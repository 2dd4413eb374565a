//! The terminal while it is ours. It is given back whatever ends the command: at the end, on an error, on a signal (the main thread
//! ends in order), and by ratatui's hook before a panic's text is printed.

use super::frame::Shown;
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::text::Text;
use std::io;

/// See the module.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    open: bool,
}

impl Screen {
    /// Takes it over.
    pub(super) fn open() -> io::Result<Screen> {
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Screen { terminal, open: true })
    }

    /// Draws anew what changed.
    pub(super) fn draw(&mut self, shown: &Shown<'_>) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame, shown)).map(|_| ())
    }

    /// Gives it back.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.open = false;
        self.terminal.show_cursor()?;
        ratatui::try_restore()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.open {
            ratatui::restore();
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, shown: &Shown<'_>) {
    let area = frame.area();
    let lines = shown.lines(area.width.into(), area.height.into());
    frame.render_widget(Text::from(lines), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::frame::testing::{Scene, seen};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    /// The screen, row by row.
    fn screen(scene: &Scene, columns: u16, rows: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal of memory");
        terminal.draw(|frame| draw(frame, &scene.shown())).expect("it can be drawn");
        let buffer = terminal.backend().buffer().clone();
        let rows = buffer.content().chunks(usize::from(columns));
        rows.map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn eighty_columns_and_twenty_four_rows_hold_a_group_of_three() {
        let rows = screen(&seen(3), 80, 24);
        let row =
            |text: &str| rows.iter().position(|row| row.contains(text)).unwrap_or_else(|| panic!("{text}: {rows:#?}"));
        assert!(
            rows[0].contains("synod top") && rows[0].contains("cluster 1") && rows[0].contains("group 0"),
            "{rows:#?}"
        );
        assert!(rows[1].contains("node 0 leads in ballot 1.0, 3 of 3 voters in step"), "{rows:#?}");
        assert!(row("   0 TARGET    leader") < row("   1 TARGET    follower"), "{rows:#?}");
        assert!(row("leader  ") < row("lease   ") && row("lease   ") < row("log     first 1 "), "{rows:#?}");
        assert!(rows[row("log     first")].contains("snapshot 500  committed 1,000  accepted 1,010"), "{rows:#?}");
        let bar = rows.iter().find(|row| row.starts_with("   2   ")).expect("a bar of the log");
        assert!(
            bar.ends_with(" 998") && bar.contains('█'),
            "its own word, though the leader knows of 980 alone: {rows:#?}"
        );
        assert!(
            rows[row("latency now")].contains("p50 ") && rows[row("latency now")].contains("100 commits"),
            "{rows:#?}"
        );
        assert!(rows[row("since start")].contains("p50 300 µs  p99 700 µs  p99.9 900 µs  max 1.20 ms"), "{rows:#?}");
        assert!(rows[row("rate ")].contains("500 entries/s"), "{rows:#?}");
        assert!(rows[23].contains("q quit"), "{rows:#?}");
        assert!(rows.iter().all(|row| row.chars().count() <= 80));
    }

    #[test]
    fn who_is_silent_is_said_to_be_and_since_when_and_drawn_where_the_leader_knows_it() {
        let mut scene = seen(3);
        scene.silence(2);
        let rows = screen(&scene, 80, 24);
        let row =
            |text: &str| rows.iter().find(|row| row.contains(text)).unwrap_or_else(|| panic!("{text}: {rows:#?}"));
        assert!(row("   2 unknown").contains("for 5.0 s"), "{rows:#?}");
        assert!(row("voters in step").contains("2 of 3 voters in step; node 2 does not answer"), "{rows:#?}");
        let bar = rows.iter().find(|row| row.starts_with("   2   ")).expect("a bar of the log");
        assert!(bar.ends_with(" 980"), "{rows:#?}");
    }

    #[test]
    fn nine_members_and_small_terminals_cut_what_matters_least() {
        let rows = screen(&seen(9), 80, 24);
        assert!((0..9).all(|node| rows.iter().any(|row| row.starts_with(&format!("   {node} TARGET")))), "{rows:#?}");
        assert!(rows[23].contains("q quit") && rows.iter().any(|row| row.starts_with("latency now")), "{rows:#?}");
        for (columns, lines) in [(40, 10), (20, 3), (1, 1)] {
            assert_eq!(screen(&seen(9), columns, lines).len(), usize::from(lines));
        }
    }
}
