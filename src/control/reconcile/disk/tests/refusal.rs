//! What a host does not do: asked again, or told by the records.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_host_cannot_do_is_told_by_the_records() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    host_before(&fake.host).await;
    write(&plane, records).await;
    fake.told().refusal = Some(HostError::Failed("the disk is broken".to_owned()));
    pass(&plane, &fake).await;
    let message = "the disk is broken".to_owned();
    assert_eq!(state(&plane, 10), Some(VolumeState::Error { message: message.clone() }));
    let modified: Volume = get(&plane, id(12)).unwrap();
    let over = modified.modification.unwrap().state;
    assert!(matches!(&over, ModificationState::Failed { message: said, .. } if *said == message), "{over:?}");
    assert_eq!(modified.spec, gp3(8));
    assert!(get::<Volume>(&plane, id(13)).unwrap().attachments.is_empty());
    for number in [21, 22, 23] {
        let snapshot: Snapshot = get(&plane, id(number)).unwrap();
        assert_eq!(snapshot.state, SnapshotState::Error { message: message.clone() });
    }
    assert_eq!(get::<Image>(&plane, id(31)).unwrap().state, ImageState::Failed { message });
    // From these there is no way back: they are tried again.
    assert_eq!(state(&plane, 11), Some(VolumeState::Deleting));
    assert!(!get::<Volume>(&plane, id(14)).unwrap().attachments.is_empty());
    assert!(get::<DeletedSnapshot>(&plane, id(24)).is_some());
    fake.told().refusal = None;
    pass(&plane, &fake).await;
    assert!(is_settled(&plane));
    assert!(state(&plane, 11).is_none() && fake.host.snapshot(id(24)).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_comes_between_is_tried_again_and_told_when_there_is_no_more_time() {
    for is_soon_over in [true, false] {
        let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
        host_before(&fake.host).await;
        write(&plane, records).await;
        fake.told().refusal = Some(HostError::Unavailable("its process died".to_owned()));
        let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
        tokio::time::sleep(DEADLINE.unsigned_abs() - RETRY * 10).await;
        assert_eq!(state(&plane, 10), Some(VolumeState::Creating));
        assert!(!get::<Volume>(&plane, id(12)).unwrap().modification.unwrap().state.is_over());
        assert!(!get::<Volume>(&plane, id(13)).unwrap().attachments.is_empty());
        for number in [21, 22, 23] {
            let snapshot: Snapshot = get(&plane, id(number)).unwrap();
            assert!(matches!(snapshot.state, SnapshotState::Pending { .. }), "{snapshot:?}");
        }
        if is_soon_over {
            fake.told().refusal = None;
            tokio::time::sleep(RETRY * 2).await;
            check_all_done(&plane, &fake.host);
        } else {
            tokio::time::sleep(RETRY * 11).await;
            let message = "its process died".to_owned();
            assert_eq!(state(&plane, 10), Some(VolumeState::Error { message: message.clone() }));
            let modified: Volume = get(&plane, id(12)).unwrap();
            let over = modified.modification.unwrap().state;
            assert!(
                matches!(&over, ModificationState::Failed { message: said, .. } if *said == message),
                "{over:?}"
            );
            assert!(get::<Volume>(&plane, id(13)).unwrap().attachments.is_empty());
            for number in [21, 22, 23] {
                let snapshot: Snapshot = get(&plane, id(number)).unwrap();
                assert_eq!(snapshot.state, SnapshotState::Error { message: message.clone() });
            }
        }
        work.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_full_is_asked_again_until_the_deadline() {
    for becomes_free in [true, false] {
        let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
        write(&plane, |tx, now| tx.put(volume(10, VolumeState::Creating, now))).await;
        fake.told().refusal = Some(HostError::NoCapacity("100 GiB are used".to_owned()));
        pass(&plane, &fake).await;
        assert_eq!(state(&plane, 10), Some(VolumeState::Creating));
        if becomes_free {
            fake.told().refusal = None;
        } else {
            tokio::time::advance(DEADLINE.unsigned_abs()).await;
        }
        pass(&plane, &fake).await;
        let is_made = state(&plane, 10) == Some(VolumeState::Available);
        assert_eq!(is_made, becomes_free);
        assert!(is_settled(&plane));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_host_refuses_is_asked_again_after_a_pause_whatever_else_happens() {
    let (plane, fake) = (plane(Arc::new(Memory::new()), 1).await, Arc::new(Fake::default()));
    write(&plane, |tx, now| {
        tx.put(volume(10, VolumeState::Creating, now));
        tx.put(of_volume(21, 12, 21, now));
        tx.put(of_volume(22, 13, 21, now));
    })
    .await;
    fake.told().refusal = Some(HostError::NoCapacity("it is full".to_owned()));
    let work = tokio::spawn(run(Arc::clone(&plane), fake.clone()));
    tokio::time::sleep(RETRY / 2).await;
    assert_eq!(asked(&fake), 2, "{:?}", fake.told().effects);
    // Other records change, and the host has other news.
    for number in 50..60 {
        write(&plane, |tx, now| tx.put(volume(number, VolumeState::Available, now))).await;
        fake.host
            .create(DiskSpec {
                id: id(number),
                zone: space().region.zones()[0],
                spec: gp3(1),
                snapshot: None,
                key: None,
            })
            .await
            .unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(&fake), 2, "{:?}", fake.told().effects);
    tokio::time::sleep(RETRY * 10).await;
    assert!((18..=24).contains(&asked(&fake)), "{:?}", fake.told().effects);
    // Who wants something else is not held up by what was refused.
    let before = asked(&fake);
    write(&plane, |tx, _| {
        tx.update::<Volume>(id(10), |volume| volume.spec = gp3(9));
    })
    .await;
    tokio::time::sleep(RETRY / 100).await;
    assert!(asked(&fake) > before);
    fake.told().refusal = None;
    tokio::time::sleep(RETRY * 2).await;
    assert_eq!(state(&plane, 10), Some(VolumeState::Available));
    work.abort();
}
