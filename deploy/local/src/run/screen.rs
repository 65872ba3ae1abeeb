//! What is printed: a line for each step and each request, then how to go on. Standard output is the story, so it can
//! be piped; what cargo says goes to standard error.
use crate::Step;
use crate::demo::Demo;
use crate::plan::Plan;
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::time::Duration;

/// A failure that was printed already.
#[derive(Debug)]
pub(crate) struct Reported;

/// Prints a line. A reader that went away does not stop us.
pub(crate) fn say(line: &str) {
    let _ = writeln!(stdout(), "{line}");
}

/// Does a step and prints how it went: its summary, or the cause of its failure with the way out.
pub(crate) async fn step<T>(name: &str, work: impl Future<Output = Step<T>>) -> Result<T, Reported> {
    if stdout().is_terminal() {
        let _ = write!(stdout(), "{name:<10} …\r").and_then(|()| stdout().flush());
    }
    match work.await {
        Ok((made, summary)) => {
            say(&format!("{name:<10} ok    {summary}"));
            Ok(made)
        }
        Err(error) => {
            say(&format!("{name:<10} failed  {error:#}"));
            Err(Reported)
        }
    }
}

/// A path as it is called from where we are.
pub(crate) fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

pub(crate) fn how_to_go_on(plan: &Plan, demo: &Demo, first: Option<Duration>) {
    if let Some(first) = first {
        let after = match first.as_millis() {
            millis @ 0..1_000 => format!("{millis} ms"),
            _ => format!("{:.1} s", first.as_secs_f64()),
        };
        say(&format!("first delivery {after} after the services were ready"));
    }
    let others = plan.other_catalogs().join("|");
    say(&format!("  api      {}     operator's token: {}", plan.api_url(), short(&plan.token_file())));
    say(&format!("  publish  {}", demo.curl_line(plan)));
    let answer = short(&plan.answer_file());
    say(&format!("  break    echo 503 >{answer}     mend  echo 200 >{answer}     stop  Ctrl-C"));
    say(&format!("  enable   {}", demo.enable_line(plan)));
    say(&format!("  others   make run CATALOG={others}     retries sooner: SPEED=600"));
}
