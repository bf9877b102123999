use jan_actors::model::TokenUsage;
use jan_actors::responses::{DeltaKind, Progress, ResponseId};
use jan_actors::web_search::WebSource;
use proptest::prelude::*;

use super::super::output_item::OutputItem;
use super::*;
use crate::api::responses::request::CreateResponse;

fn log(background: bool) -> EventLog {
    EventLog::new(ResponseObject::new(ResponseId::new(), 7, &CreateResponse::default(), true, background))
}

fn delta(text: &str) -> Delta {
    Delta { text: text.to_owned(), ..Delta::default() }
}

fn end(status: EndStatus) -> End {
    match status {
        EndStatus::Failed => End::failed(9, "engine_crashed", "why"),
        status => End { status, at: 9, problem: None, usage: Some(TokenUsage::default()) },
    }
}

/// Returns all events, with the deltas and the end arriving in pieces of these sizes.
fn play(log: &mut EventLog, deltas: &[Delta], end: &End, pieces: &[usize]) -> Vec<ResponseStreamEvent> {
    let mut events = log.opening();
    let mut rest = deltas;
    for piece in pieces {
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        events.extend(log.advance(now.to_vec(), None));
        rest = later;
    }
    events.extend(log.advance(rest.to_vec(), Some(end)));
    events
}

fn names(events: &[ResponseStreamEvent]) -> Vec<&'static str> {
    events.iter().map(|event| event.event.name()).collect()
}

#[test]
fn the_sequence_is_openais() {
    let events = play(&mut log(false), &[delta("a"), delta("b")], &end(EndStatus::Completed), &[]);
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(names(&log(true).opening())[1], "response.queued");
    let failed = play(&mut log(false), &[], &end(EndStatus::Failed), &[]);
    assert_eq!(names(&failed)[2..], ["error", "response.failed"]);
    let json = serde_json::to_value(&events[4]).unwrap();
    assert_eq!((&json["type"], &json["sequence_number"]), (&"response.output_text.delta".into(), &4.into()));
}

#[test]
fn every_name_is_the_type_on_the_wire() {
    for status in [EndStatus::Completed, EndStatus::Incomplete, EndStatus::Failed, EndStatus::Cancelled] {
        for event in play(&mut log(true), &[delta("a")], &end(status), &[]) {
            assert_eq!(serde_json::to_value(&event).unwrap()["type"], event.event.name());
        }
    }
}

#[test]
fn the_end_of_a_lost_response_reaches_all_readers() {
    for (after, wanted) in [(None, [2, 3]), (Some(1), [2, 3]), (Some(2), [3, 4]), (Some(40), [41, 42])] {
        let mut log = log(false);
        log.opening();
        let mut events = log.advance(Vec::new(), Some(&End::lost(9)));
        move_behind(&mut events, after);
        assert_eq!(events.iter().map(|event| event.sequence_number).collect::<Vec<_>>(), wanted);
    }
    let mut events = log(false).opening();
    move_behind(&mut events, Some(u64::MAX));
}

fn statuses() -> impl Strategy<Value = EndStatus> {
    prop_oneof![
        Just(EndStatus::Completed),
        Just(EndStatus::Incomplete),
        Just(EndStatus::Failed),
        Just(EndStatus::Cancelled)
    ]
}

proptest! {
    /// The events do not depend on how the deltas arrive, are numbered without gaps, and add up to the final response;
    /// everything that begins also ends.
    #[test]
    fn the_events_do_not_depend_on_when_things_arrive(
        texts in prop::collection::vec("[a-zä]{0,3}", 0..12),
        pieces in prop::collection::vec(0usize..4, 0..12),
        status in statuses(),
        background: bool,
    ) {
        let deltas: Vec<Delta> = texts.iter().map(|text| delta(text)).collect();
        let mut one = log(background);
        let shown = one.shown.clone();
        let events = play(&mut one, &deltas, &end(status), &pieces);
        let again = play(&mut EventLog::new(shown.clone()), &deltas, &end(status), &[]);
        prop_assert_eq!(&events, &again);
        for (number, event) in events.iter().enumerate() {
            prop_assert_eq!(event.sequence_number, number as u64);
        }
        let said: String = events.iter().filter_map(|event| match &event.event {
            Event::TextDelta { delta, .. } => Some(delta.as_str()),
            _ => None,
        }).collect();
        prop_assert_eq!(&said, &texts.concat());
        let (Event::Completed { response } | Event::Incomplete { response } | Event::Failed { response }) =
            &events.last().unwrap().event else { panic!("no end") };
        let whole = Progress { started: true, deltas: deltas.clone(), end: Some(end(status)) };
        prop_assert_eq!(&**response, &shown.at(&whole));
        let text = match response.output.first() {
            Some(OutputItem::Message(message)) => message.content[0].text.as_str(),
            _ => "",
        };
        prop_assert_eq!(text, said.as_str());
        let count = |name| names(&events).into_iter().filter(|other| *other == name).count();
        prop_assert_eq!(count("response.output_item.added"), count("response.output_item.done"));
        prop_assert_eq!(count("response.content_part.added"), count("response.content_part.done"));
        prop_assert_eq!(count("response.output_item.added"), response.output.len());
    }
    /// The same holds for all kinds of output, including web searches, in any order.
    #[test]
    fn searches_and_citations_do_not_depend_on_when_things_arrive(
        kinds in prop::collection::vec(kind(), 0..12),
        pieces in prop::collection::vec(0usize..4, 0..12),
        status in statuses(),
        with_sources: bool,
    ) {
        let deltas: Vec<Delta> =
            kinds.iter().map(|kind| Delta { kind: kind.clone(), ..delta("a [1] [2") }).collect();
        let mut one = EventLog::new(ResponseObject { with_sources, ..log(false).shown });
        let shown = one.shown.clone();
        let events = play(&mut one, &deltas, &end(status), &pieces);
        prop_assert_eq!(&events, &play(&mut EventLog::new(shown.clone()), &deltas, &end(status), &[]));
        let (Event::Completed { response } | Event::Incomplete { response } | Event::Failed { response }) =
            &events.last().unwrap().event else { panic!("no end") };
        let whole = Progress { started: true, deltas: deltas.clone(), end: Some(end(status)) };
        prop_assert_eq!(&**response, &shown.at(&whole));
        let count = |name| names(&events).into_iter().filter(|other| *other == name).count();
        prop_assert_eq!(count("response.output_item.added"), response.output.len());
        prop_assert_eq!(count("response.output_item.done"), response.output.len());
        let (mut cited, mut found, mut sources) = (0, 0, 0);
        for item in &response.output {
            match item {
                OutputItem::Message(message) => {
                    for one in &message.content[0].annotations {
                        prop_assert!(sources > 0);
                        let text: Vec<char> = message.content[0].text.chars().collect();
                        prop_assert_eq!(text[one.start_index..one.end_index].iter().collect::<String>(), "[1]");
                        cited += 1;
                    }
                }
                OutputItem::Search(search) => {
                    let status = serde_json::to_value(search.status).unwrap();
                    prop_assert!(status == "completed" || status == "failed");
                    found += usize::from(status == "completed");
                    sources += usize::from(status == "completed");
                    prop_assert_eq!(search.action.sources.is_some(), with_sources && status == "completed");
                }
                _ => {}
            }
        }
        prop_assert_eq!(count("response.output_text.annotation.added"), cited);
        prop_assert_eq!(count("response.web_search_call.completed"), found);
        let json = serde_json::to_value(&**response).unwrap();
        let read: ResponseObject = serde_json::from_value(json).unwrap();
        prop_assert_eq!(&read, &**response);
    }
}

fn kind() -> impl Strategy<Value = DeltaKind> {
    let source = WebSource { url: "https://a.example/".to_owned(), title: "A".to_owned() };
    prop_oneof![
        3 => Just(DeltaKind::Text),
        1 => Just(DeltaKind::Reasoning),
        1 => Just(DeltaKind::Call { call_id: "c".to_owned() }),
        1 => Just(DeltaKind::Arguments),
        2 => Just(DeltaKind::Search),
        2 => Just(DeltaKind::Searched { sources: Some(vec![source]) }),
        1 => Just(DeltaKind::Searched { sources: None }),
    ]
}
