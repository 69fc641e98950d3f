//! A template's tokens as a tree, by the grammar of Go's `text/template/parse`. What of Go's it does not carry out ends the
//! evaluation, wherever in the template it stands.

use std::rc::Rc;

use super::{
    constant,
    lex::{Token, tokens},
    run::Go,
};
use crate::policy::builtins::{Fault, within};

/// Deepest nesting of controls and brackets: parsing and running recurse.
const MAX_NESTING: usize = 64;
/// Most variables that may be in sight: they are looked up one after the other.
const MAX_VARIABLES: usize = 64;

const FUNCTIONS: [&str; 19] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "le", "len", "lt", "ne", "not", "or", "print", "printf", "println",
    "slice", "js", "urlquery",
];
const KEYWORDS: [&str; 11] = ["block", "break", "continue", "define", "else", "end", "if", "range", "nil", "template", "with"];

pub(super) enum Node<'t> {
    Text(&'t str),
    Action(Pipe<'t>),
    If(Control<'t>),
    With(Control<'t>),
    Range(Control<'t>),
    Break,
    Continue,
}

pub(super) struct Control<'t> {
    pub(super) pipe: Pipe<'t>,
    pub(super) then: Vec<Node<'t>>,
    pub(super) otherwise: Vec<Node<'t>>,
}

/// Commands of which each is handed what the one before it gives.
pub(super) struct Pipe<'t> {
    pub(super) variables: Vec<&'t str>,
    /// Whether the variables are there already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Operand<'t>>>,
}

pub(super) enum Operand<'t> {
    Dot,
    Nil,
    Constant(Go<'t>),
    Function(&'t str),
    Variable(&'t str, Vec<&'t str>),
    Field(Vec<&'t str>),
    Pipe(Pipe<'t>),
    Chain(Box<Self>, Vec<&'t str>),
}

/// What ended a list of nodes.
#[derive(PartialEq)]
enum Ended {
    Closed,
    /// What follows an `else` that ends nothing yet: `}}`, `if` or `with`.
    Else,
    Text,
}

pub(super) fn parse(template: &str) -> Result<Vec<Node<'_>>, Fault> {
    let tokens = tokens(template)?;
    let mut parser = Parser { tokens: &tokens, at: 0, variables: vec!["$"], nesting: 0, ranges: 0 };
    match parser.list()? {
        (nodes, Ended::Text) => Ok(nodes),
        _ => Err("unexpected {{end}} or {{else}}".into()),
    }
}

struct Parser<'p, 't> {
    tokens: &'p [Token<'t>],
    at: usize,
    /// Variables in sight.
    variables: Vec<&'t str>,
    nesting: usize,
    /// Loops around.
    ranges: usize,
}

impl<'t> Parser<'_, 't> {
    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).copied()
    }

    fn peek_behind_space(&mut self) -> Option<Token<'t>> {
        while self.peek() == Some(Token::Space) {
            self.at += 1;
        }
        self.peek()
    }

    fn takes(&mut self, token: Token<'_>) -> bool {
        let is_next = self.peek_behind_space() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn closes(&mut self) -> Result<(), Fault> {
        if self.takes(Token::Close) { Ok(()) } else { Err("unexpected token in an action".into()) }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        within(self.nesting < MAX_NESTING, "the template nests too deep")?;
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn list(&mut self) -> Result<(Vec<Node<'t>>, Ended), Fault> {
        let mut nodes = Vec::new();
        while let Some(token) = self.peek() {
            self.at += 1;
            if let Token::Text(text) = token {
                nodes.push(Node::Text(text));
                continue;
            }
            let keyword = match self.peek_behind_space() {
                Some(Token::Word(word)) if KEYWORDS.contains(&word) && word != "nil" => word,
                _ => {
                    let pipe = self.pipe("", Token::Close)?;
                    nodes.push(Node::Action(pipe));
                    continue;
                }
            };
            self.at += 1;
            match keyword {
                "end" => {
                    self.closes()?;
                    return Ok((nodes, Ended::Closed));
                }
                "else" => {
                    if !matches!(self.peek_behind_space(), Some(Token::Word("if" | "with"))) {
                        self.closes()?;
                    }
                    return Ok((nodes, Ended::Else));
                }
                "break" | "continue" => {
                    self.closes()?;
                    if self.ranges == 0 {
                        return Err("{{break}} or {{continue}} outside {{range}}".into());
                    }
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "if" | "with" | "range" => nodes.push(self.nested(|this| this.control(keyword))?),
                _ => return Err(Fault::limit(format!("`{{{{{keyword}}}}}` is not supported"))),
            }
        }
        Ok((nodes, Ended::Text))
    }

    fn control(&mut self, keyword: &str) -> Result<Node<'t>, Fault> {
        let seen = self.variables.len();
        let pipe = self.pipe(keyword, Token::Close)?;
        self.ranges += usize::from(keyword == "range");
        let (then, mut end) = self.list()?;
        self.ranges -= usize::from(keyword == "range");
        let mut otherwise = Vec::new();
        if end == Ended::Else {
            // What follows the `else` of another control is no beginning of a list.
            let follows = match self.tokens.get(self.at.saturating_sub(1)) {
                Some(Token::Close) => None,
                _ => self.peek(),
            };
            match follows {
                None => (otherwise, end) = self.list()?,
                Some(Token::Word(next)) if next == keyword && keyword != "range" => {
                    self.at += 1;
                    otherwise.push(self.nested(|this| this.control(keyword))?);
                    end = Ended::Closed;
                }
                Some(_) => return Err("unexpected token behind else".into()),
            }
        }
        if end != Ended::Closed {
            return Err("expected end".into());
        }
        self.variables.truncate(seen);
        let control = Control { pipe, then, otherwise };
        Ok(match keyword {
            "if" => Node::If(control),
            "with" => Node::With(control),
            _ => Node::Range(control),
        })
    }

    fn pipe(&mut self, keyword: &str, closing: Token<'_>) -> Result<Pipe<'t>, Fault> {
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        while let Some(Token::Variable(name)) = self.peek_behind_space() {
            let before = self.at;
            self.at += 1;
            let next = self.peek_behind_space();
            if !matches!(next, Some(Token::Declare | Token::Assign | Token::Symbol(','))) {
                self.at = before;
                break;
            }
            self.at += 1;
            pipe.variables.push(name);
            self.variables.push(name);
            within(self.variables.len() <= MAX_VARIABLES, "the template has too many variables")?;
            if next != Some(Token::Symbol(',')) {
                pipe.assigns = next == Some(Token::Assign);
                break;
            }
            let goes_on = matches!(self.peek_behind_space(), Some(Token::Variable(_) | Token::Close | Token::Symbol(')')));
            if keyword != "range" || pipe.variables.len() > 1 || !goes_on {
                return Err("too many declarations".into());
            }
        }
        while !self.takes(closing) {
            let command = self.command()?;
            let is_constant = matches!(command.first(), Some(Operand::Dot | Operand::Nil | Operand::Constant(_)));
            if is_constant && !pipe.commands.is_empty() {
                return Err("non executable command in pipeline".into());
            }
            pipe.commands.push(command);
        }
        if pipe.commands.is_empty() { Err("missing value".into()) } else { Ok(pipe) }
    }

    fn command(&mut self) -> Result<Vec<Operand<'t>>, Fault> {
        let mut operands = Vec::new();
        loop {
            self.peek_behind_space();
            if let Some(operand) = self.operand()? {
                operands.push(operand);
            }
            match self.peek() {
                Some(Token::Space) => {}
                Some(Token::Close | Token::Symbol(')')) => break,
                Some(Token::Symbol('|')) => {
                    self.at += 1;
                    break;
                }
                _ => return Err("unexpected token in operand".into()),
            }
        }
        if operands.is_empty() { Err("empty command".into()) } else { Ok(operands) }
    }

    fn operand(&mut self) -> Result<Option<Operand<'t>>, Fault> {
        let Some(term) = self.term()? else { return Ok(None) };
        let mut fields = Vec::new();
        while let Some(Token::Field(name)) = self.peek() {
            self.at += 1;
            fields.push(name);
        }
        Ok(Some(match term {
            term if fields.is_empty() => term,
            Operand::Variable(name, _) => Operand::Variable(name, fields),
            Operand::Field(mut names) => {
                names.extend(fields);
                Operand::Field(names)
            }
            Operand::Dot | Operand::Nil | Operand::Constant(_) => return Err("unexpected . after term".into()),
            term => Operand::Chain(Box::new(term), fields),
        }))
    }

    fn term(&mut self) -> Result<Option<Operand<'t>>, Fault> {
        let Some(token) = self.peek() else { return Ok(None) };
        let term = match token {
            Token::Dot => Operand::Dot,
            Token::Word("nil") => Operand::Nil,
            Token::Word(word @ ("true" | "false")) => Operand::Constant(Go::Bool(word == "true")),
            Token::Word(word) if FUNCTIONS.contains(&word) => Operand::Function(word),
            Token::Word(word) if !KEYWORDS.contains(&word) => return Err("function not defined".into()),
            Token::Variable(name) if self.variables.contains(&name) => Operand::Variable(name, Vec::new()),
            Token::Variable(_) => return Err("undefined variable".into()),
            Token::Field(name) => Operand::Field(vec![name]),
            Token::Number(text) => Operand::Constant(constant::number(text)?),
            Token::Letter(inner) => Operand::Constant(constant::letter(inner)?),
            Token::Quoted(inner) => Operand::Constant(Go::Text(Rc::from(constant::quoted(inner)?))),
            Token::Raw(text) => Operand::Constant(Go::Text(Rc::from(text))),
            Token::Symbol('(') => {
                self.at += 1;
                return self.nested(|this| this.pipe("", Token::Symbol(')'))).map(|pipe| Some(Operand::Pipe(pipe)));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(term))
    }
}
