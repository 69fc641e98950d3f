//! When a workload may act.

use std::sync::Arc;

use chrono::{DateTime, Datelike as _, NaiveTime, TimeDelta, Timelike as _, Weekday};
use chrono_tz::Tz;
use serde_json::Value;

use crate::{
    clock::Now,
    json::{Fault, Members},
};

/// When a workload may act: `from` up to and without `to`, which may lie on the next day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// `HH:MM`.
    pub from: Arc<str>,
    pub to: Arc<str>,
    /// Name of the IANA database.
    pub zone: Arc<str>,
    /// Days that it begins on, by their English names; absent: all.
    pub days: Option<Vec<Arc<str>>>,
    window: Window,
}

/// The same as it is reckoned with: minutes of the day.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    from: u32,
    to: u32,
    zone: Tz,
    days: Option<Vec<Weekday>>,
}

impl Schedule {
    /// Whether it is now. In the hour that a change of the clocks repeats it holds twice, and one that is left out is not
    /// missed; so says the clock on the wall.
    pub fn holds(&self, now: Now) -> bool {
        let Window { from, to, zone, days } = &self.window;
        let Some(utc) = DateTime::from_timestamp(now.seconds(), 0) else { return false };
        let local = utc.with_timezone(zone).naive_local();
        let minute = local.hour() * 60 + local.minute();
        let begins_on = |day: Weekday| days.as_ref().is_none_or(|days| days.contains(&day));
        if from < to {
            return (*from..*to).contains(&minute) && begins_on(local.weekday());
        }
        let eve = (local - TimeDelta::days(1)).weekday();
        (minute >= *from && begins_on(local.weekday())) || (minute < *to && begins_on(eve))
    }
}

pub(super) fn read(document: &Value) -> Result<Schedule, Vec<Fault>> {
    let mut members = Members::of(document);
    let (from, from_minute) = time(&mut members, "from");
    let (to, to_minute) = time(&mut members, "to");
    let zone: Arc<str> = members.read("zone").unwrap_or_else(|| "UTC".into());
    let tz = zone.parse().unwrap_or_else(|_| {
        members.refuse("zone", format!("`{zone}` is no time zone such as `Europe/Berlin`"));
        Tz::UTC
    });
    let days: Option<Vec<Arc<str>>> = members.read("days");
    let read_day = |day: &Arc<str>| WEEK.iter().find(|(name, _)| *name == &**day).map(|(_, day)| *day).ok_or_else(|| day.clone());
    let weekdays = days.as_ref().map(|days| days.iter().map(read_day).collect::<Result<Vec<_>, _>>()).transpose();
    let weekdays = weekdays.unwrap_or_else(|day| {
        members.refuse("days", format!("`{day}` is no day such as `Monday`"));
        None
    });
    let window = Window { from: from_minute, to: to_minute, zone: tz, days: weekdays };
    members.finish(Schedule { from, to, zone, days, window })
}

/// `HH:MM`, and which minute of the day it is.
fn time(members: &mut Members<'_>, name: &'static str) -> (Arc<str>, u32) {
    let written = members.raw(name).is_some();
    let Some(text) = members.read::<Arc<str>>(name) else {
        if !written {
            members.refuse_all(format!("needs `{name}`, such as `05:30`"));
        }
        return ("".into(), 0);
    };
    let read = NaiveTime::parse_from_str(&text, "%H:%M").ok().filter(|_| text.len() == "05:30".len());
    if read.is_none() {
        members.refuse(name, format!("`{text}` is no time of day such as `05:30`"));
    }
    (text, read.map_or(0, |time| time.hour() * 60 + time.minute()))
}

const WEEK: [(&str, Weekday); 7] = [
    ("Monday", Weekday::Mon),
    ("Tuesday", Weekday::Tue),
    ("Wednesday", Weekday::Wed),
    ("Thursday", Weekday::Thu),
    ("Friday", Weekday::Fri),
    ("Saturday", Weekday::Sat),
    ("Sunday", Weekday::Sun),
];
