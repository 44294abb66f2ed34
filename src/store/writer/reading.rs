//! Reading a destination's queue: from the file, then from what waits in memory because the file takes nothing.

use super::super::{DestId, Order, Seq, StoreError, Stored};
use super::engine::Engine;
use super::tables::{self, Place};
use crate::clock::Now;

/// What a destination asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) dest: DestId,
    pub(super) after: Option<Seq>,
    pub(super) max_messages: usize,
    pub(super) max_bytes: usize,
    pub(super) order: Order,
}

struct Page {
    query: Query,
    bytes: usize,
    messages: Vec<Stored>,
}

impl Page {
    fn wants(&self, seq: Seq) -> bool {
        match (self.query.order, self.query.after) {
            (_, None) => true,
            (Order::Oldest, Some(after)) => seq > after,
            (Order::Newest, Some(below)) => seq < below,
        }
    }

    /// False when it is full. One message larger than the whole page still goes, alone, or nothing ever would.
    fn push(&mut self, stored: Stored) -> bool {
        let cost = stored.message.cost();
        let fits = self.messages.is_empty() || self.bytes + cost <= self.query.max_bytes;
        if !fits || self.messages.len() >= self.query.max_messages {
            return false;
        }
        self.bytes += cost;
        self.messages.push(stored);
        true
    }
}

impl Engine {
    pub(super) fn read(&mut self, query: Query, now: Now) -> Vec<Stored> {
        let mut page = Page { query, bytes: 0, messages: Vec::new() };
        if query.max_messages == 0 || self.work.is_choked(query.dest) {
            return page.messages;
        }
        match query.order {
            Order::Oldest => {
                if self.read_file(&mut page, now) {
                    self.read_waiting(&mut page);
                }
            }
            Order::Newest => {
                if self.read_waiting(&mut page) {
                    self.read_file(&mut page, now);
                }
            }
        }
        page.messages
    }

    /// False when the page is full.
    fn read_waiting(&self, page: &mut Page) -> bool {
        let mut waiting = self.work.stored_for(page.query.dest, &self.boot);
        loop {
            let next = match page.query.order {
                Order::Oldest => waiting.next(),
                Order::Newest => waiting.next_back(),
            };
            let Some(stored) = next else { return true };
            if page.wants(stored.seq) && !page.push(stored) {
                return false;
            }
        }
    }

    /// False when the page is full or the file cannot be read further.
    fn read_file(&mut self, page: &mut Page, now: Now) -> bool {
        let mut damaged = Vec::new();
        let result = self.read_places(page, &mut damaged);
        if !damaged.is_empty() {
            self.drop_damaged(page.query.dest, &damaged, now);
        }
        result.unwrap_or_else(|error| {
            self.read_failed(error, now);
            false
        })
    }

    fn read_places(&mut self, page: &mut Page, damaged: &mut Vec<Place>) -> Result<bool, StoreError> {
        let Some(conn) = &self.conn else { return Ok(true) };
        let (dest, order) = (page.query.dest, page.query.order);
        if self.queues.get(&dest).is_none_or(|queue| queue.messages == 0) {
            return Ok(true);
        }
        let mut place = match order {
            Order::Oldest => {
                let after = page.query.after.unwrap_or(0);
                match tables::place_at(conn, dest, after)? {
                    Some(place) => Some(place),
                    None => tables::place_after(conn, dest, after)?,
                }
            }
            Order::Newest => {
                tables::place_at(conn, dest, page.query.after.map_or(Seq::MAX, |below| below.saturating_sub(1)))?
            }
        };
        while let Some(here) = place {
            let first = here.first;
            let content = match &here.left {
                Some(_) => self.cache.load(conn, first)?,
                None => None,
            };
            let (Some(content), Some(left)) = (content, &here.left) else {
                damaged.push(here);
                place = beyond(conn, dest, first, order)?;
                continue;
            };
            let mut rising = content.iter();
            while let Some(stored) = match order {
                Order::Oldest => rising.next(),
                Order::Newest => rising.next_back(),
            } {
                let seq = stored.seq;
                let due = page.wants(seq) && left.contains(seq) && !self.work.is_delivered(dest, seq);
                if due && !page.push(stored.clone()) {
                    return Ok(false);
                }
            }
            place = beyond(conn, dest, first, order)?;
        }
        Ok(true)
    }
}

fn beyond(conn: &rusqlite::Connection, dest: DestId, first: Seq, order: Order) -> Result<Option<Place>, StoreError> {
    Ok(match order {
        Order::Oldest => tables::place_after(conn, dest, first)?,
        Order::Newest => tables::place_at(conn, dest, first.saturating_sub(1))?,
    })
}
