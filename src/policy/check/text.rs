//! Whether a source is safe to parse, told from its tokens alone: regorus's parser needs stack for every chained
//! operator, and twice the time for every bracket that opens as the first thing inside another.

use regorus::{
    Source,
    unstable::{Lexer, TokenKind},
};

use crate::policy::{
    engine::MAX_COLUMNS,
    problem::{Code, Problem, problem_at},
};

/// Most operators in one statement. What nests less but still too much is found in the parsed module.
const MAX_OPERATORS: u32 = 1000;

/// How often brackets may be parsed, all together. Each time takes microseconds.
const MAX_PARSES: u64 = 1 << 18;

/// A bracket that is open: how often it is parsed, and whether what comes next is parsed twice. That is the first term of
/// an array, set or object, which may turn out to be a comprehension's, and of each statement, which may turn out to be
/// an assignment.
struct Bracket {
    parses: u64,
    first: bool,
    round: bool,
}

pub(in crate::policy) fn check_text(source: &Source) -> Option<Problem> {
    let mut lexer = Lexer::new(source);
    lexer.set_max_col(MAX_COLUMNS);
    let (mut operators, mut line, mut continues, mut before) = (0, 0, false, "");
    let (mut brackets, mut parses): (Vec<Bracket>, _) = (Vec::new(), 0);
    // What the lexer refuses the parser refuses too, and words it better.
    while let Ok(token) = lexer.next_token() {
        let (kind, span) = (token.0, token.1);
        let symbol = match kind {
            TokenKind::Eof => break,
            TokenKind::Symbol => span.text(),
            _ => "",
        };
        let operator = !matches!(symbol, "" | "(" | ")" | "[" | "]" | "{" | "}" | "," | ";" | ":" | ".");
        match symbol {
            "[" | "{" | "(" => {
                let begins = span.line != line && !continues && !matches!(before, "," | ":" | "[" | "{" | "(");
                if let Some(bracket) = brackets.last_mut() {
                    bracket.first |= begins && !bracket.round;
                }
                let above = brackets.last().map_or(1, |bracket| bracket.parses << u32::from(bracket.first));
                brackets.push(Bracket { parses: above, first: symbol != "(", round: symbol == "(" });
                parses += above;
            }
            "]" | "}" | ")" => drop(brackets.pop()),
            _ => {
                let begins = span.line != line && !continues && !matches!(before, "," | ":" | "[" | "{" | "(");
                if let Some(bracket) = brackets.last_mut() {
                    match symbol {
                        ";" | "|" => bracket.first = !bracket.round,
                        "," => bracket.first = false,
                        _ if operator => bracket.first = false,
                        _ => bracket.first |= begins && !bracket.round,
                    }
                }
            }
        }
        if symbol == ";" || (span.line != line && !continues && !operator) {
            operators = 0;
        }
        before = match symbol {
            "," => ",",
            ":" => ":",
            "[" | "{" | "(" => "[",
            _ => "",
        };
        (line, continues) = (span.line, operator);
        operators += u32::from(operator);
        let text = match (parses > MAX_PARSES, operators > MAX_OPERATORS) {
            (true, _) => "brackets nest too deep from here; give the inner parts rules of their own".to_owned(),
            (_, true) => format!("more than {MAX_OPERATORS} operators in one statement; break it up"),
            _ => continue,
        };
        return Some(problem_at(Code::TooDeep, &span, text));
    }
    None
}
