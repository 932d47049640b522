"""Scheduled actions: a group's sizes change at a time, or again and again."""

import datetime
from collections.abc import Callable
from typing import Any

from scaling import Groups


def in_seconds(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


def test_a_size_changes_at_its_time(groups: Groups, autoscaling: Any) -> None:
    name = groups.make(MaxSize=3)
    of = {"AutoScalingGroupName": name, "ScheduledActionName": "soon"}
    autoscaling.put_scheduled_update_group_action(**of, StartTime=in_seconds(2), MinSize=1, DesiredCapacity=2)
    [action] = autoscaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"]
    assert (action["MinSize"], action["DesiredCapacity"], "MaxSize" in action, "Recurrence" in action) == (1, 2, False, False)
    assert action["ScheduledActionARN"].endswith(f":autoScalingGroupName/{name}:scheduledActionName/soon")
    groups.wait_for(name, 2)
    change = "a scheduled action update of AutoScalingGroup constraints to min: 1, max: 3, desired: 2 changing the desired capacity from 0 to 2"
    assert change in groups.activities(name)[0]["Cause"]
    assert autoscaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"] == []


def test_actions_recur_by_the_clock_of_a_place(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make()
    of = {"AutoScalingGroupName": name, "ScheduledActionName": "daily"}
    autoscaling.put_scheduled_update_group_action(**of, Recurrence="30 6 * * *", TimeZone="Asia/Tokyo", DesiredCapacity=1)
    [action] = autoscaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"]
    assert (action["Recurrence"], action["TimeZone"]) == ("30 6 * * *", "Asia/Tokyo")
    assert action["StartTime"] == action["Time"] and action["StartTime"].strftime("%H:%M") == "21:30"
    # The one with this name is another now.
    autoscaling.put_scheduled_update_group_action(**of, Recurrence="0 0 1 1 *", MinSize=0)
    [action] = autoscaling.describe_scheduled_actions(ScheduledActionNames=["daily"])["ScheduledUpdateGroupActions"]
    assert "TimeZone" not in action and "DesiredCapacity" not in action
    autoscaling.delete_scheduled_action(**of)
    assert refused("ValidationError", autoscaling.delete_scheduled_action, **of) == "Scheduled action name not found: daily"


def test_actions_come_and_go_together(groups: Groups, autoscaling: Any) -> None:
    name = groups.make(MaxSize=9)
    wanted = [{"ScheduledActionName": f"n{number}", "Recurrence": f"{number} 0 1 1 *", "DesiredCapacity": number} for number in range(5)]
    bad = {"ScheduledActionName": "bad", "Recurrence": "never", "DesiredCapacity": 1}
    put = autoscaling.batch_put_scheduled_update_group_action(AutoScalingGroupName=name, ScheduledUpdateGroupActions=[*wanted, bad])
    [failed] = put["FailedScheduledUpdateGroupActions"]
    assert (failed["ScheduledActionName"], failed["ErrorCode"]) == ("bad", "ValidationError")
    pages = autoscaling.get_paginator("describe_scheduled_actions").paginate(AutoScalingGroupName=name, PaginationConfig={"PageSize": 2})
    found = [[action["ScheduledActionName"] for action in page["ScheduledUpdateGroupActions"]] for page in pages]
    assert found == [["n0", "n1"], ["n2", "n3"], ["n4"]]
    gone = autoscaling.batch_delete_scheduled_action(AutoScalingGroupName=name, ScheduledActionNames=["n0", "n1", "nobody"])
    assert [action["ScheduledActionName"] for action in gone["FailedScheduledActions"]] == ["nobody"]
    left = autoscaling.describe_scheduled_actions(AutoScalingGroupName=name)["ScheduledUpdateGroupActions"]
    assert [action["ScheduledActionName"] for action in left] == ["n2", "n3", "n4"]


def test_actions_that_cannot_be_are_refused(groups: Groups, autoscaling: Any, refused: Callable[..., str]) -> None:
    name = groups.make()

    def message(**arguments: Any) -> str:
        of = {"AutoScalingGroupName": name, "ScheduledActionName": "x"}
        return refused("ValidationError", autoscaling.put_scheduled_update_group_action, **of | arguments)

    later = in_seconds(3600)
    assert message(StartTime=in_seconds(-60), MinSize=1) == "Given start time is in the past"
    assert message(StartTime=later, EndTime=in_seconds(60), MinSize=1) == "Given start time is after the end time"
    assert message(StartTime=later).startswith("At least one of min size")
    assert message(MinSize=1) == "Either a start time or a recurrence must be given"
    assert message(Recurrence="* * *", MinSize=1).startswith("Given recurrence string: * * * is invalid")
    assert message(Recurrence="0 0 * * *", TimeZone="Moon/Tycho", MinSize=1) == "Given time zone: Moon/Tycho is invalid"
    assert message(StartTime=later, MinSize=2, MaxSize=1) == "Min value cannot be greater than max value"
    assert message(StartTime=later, MaxSize=1, DesiredCapacity=2).startswith("Desired capacity must be between")
    assert message(Recurrence="0 0 1 1 *", EndTime=in_seconds(60), MinSize=1) == "The scheduled action would never happen"
    assert "'minSize'" in message(StartTime=later, MinSize=-1)
    assert "not found" in message(AutoScalingGroupName="nobody", StartTime=later, MinSize=1)
