"""The pure part of the oracle: `python3 -m unittest` in this folder. Needs nothing but the standard library."""

from __future__ import annotations

import unittest
from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from difference import frozen, multisets, orders_per_key
from orders import Books, Progress
from semantics import (
    NEVER,
    HighValue,
    LateLine,
    OrderAnalytics,
    Revenue,
    Unreadable,
    as_high_value,
    as_late,
    as_revenue,
    milliseconds,
)
from steps import Steps
from windows import DAY, Calendar, Record, calendar, early, sessions

MINUTE = 60_000
CATEGORIES = {"p1": "books", "p2": "toys"}


def order(name: str, *items: tuple[str, int, str], currency: str | None = "EUR", total: str | None = None) -> dict[str, Any]:
    lines = [{"productId": product, "quantity": quantity, "unitPrice": Decimal(price)} for product, quantity, price in items]
    amount = sum((line["quantity"] * line["unitPrice"] for line in lines), Decimal(0))
    return {"orderId": name, "customerId": "c1", "currency": currency, "total": amount if total is None else Decimal(total), "items": lines}


class Folding:
    """A model that is fed with times in seconds; the record arrives when the event happens unless said otherwise."""

    def __init__(self, partitions: int = 1):
        self.model = OrderAnalytics(CATEGORIES, partitions)

    def at(
        self, seconds: float, what: dict[str, Any] | None = None, partition: int = 0, arrives: float | None = None, event_id: str = ""
    ) -> Folding:
        event = int(seconds * 1000)
        record = event if arrives is None else int(arrives * 1000)
        self.model.observe(partition, record, event, event_id or str(self.model.observed), what or order(f"filler-{seconds}", ("p2", 1, "0.01")))
        return self

    def rows(self, product: str = "p1", closed: int | None = None) -> list[Revenue]:
        return sorted(row for row in self.model.revenue(closed).elements() if row.product_id == product)


class Windows(unittest.TestCase):
    def test_sums_are_exact_and_orders_distinct(self) -> None:
        fold = Folding()
        fold.at(1, order("a", ("p1", 3, "0.10"), ("p1", 1, "0.20"), ("p2", 1, "5.00")))
        fold.at(59.999, order("b", ("p1", 1, "0.30")))
        fold.at(60, order("c", ("p1", 1, "0.30")))
        self.assertEqual(
            fold.rows(),
            [Revenue("p1", "books", 0, MINUTE, 2, 5, Decimal("0.80")), Revenue("p1", "books", MINUTE, 2 * MINUTE, 1, 1, Decimal("0.30"))],
        )

    def test_an_order_under_another_event_id_adds_to_sums_but_is_no_second_order(self) -> None:
        fold = Folding()
        for _ in range(2):
            fold.at(1, order("a", ("p1", 2, "600.00")))
        self.assertEqual(fold.rows(), [Revenue("p1", "books", 0, MINUTE, 1, 4, Decimal("2400.00"))])
        self.assertEqual(fold.model.high_value, Counter({HighValue("a", Decimal("1200.00")): 2}))

    def test_an_event_that_comes_again_counts_once_while_it_is_remembered(self) -> None:
        first, hour = order("a", ("p1", 1, "2.00")), 3600
        fold = Folding().at(1, first, event_id="e").at(hour, first, event_id="e").at(hour + 1, first, event_id="e")
        self.assertEqual((fold.model.repeats, len(fold.rows())), (1, 2))
        # Behind the watermark by an hour, and by more than that.
        fold.at(2 * hour + 6, event_id="f").at(hour + 1, first, event_id="e").at(hour, first, event_id="e")
        self.assertEqual((fold.model.repeats, fold.model.late.total()), (2, 1))

    def test_a_product_that_is_not_in_the_table_keeps_its_line(self) -> None:
        self.assertEqual(Folding().at(1, order("a", ("new", 1, "1.00"))).rows("new")[0].category, None)

    def test_high_value_means_above_the_limit(self) -> None:
        fold = Folding().at(1, order("a", ("p1", 1, "1000.00"))).at(2, order("b", ("p1", 1, "1000.01")))
        self.assertEqual(list(fold.model.high_value), [HighValue("b", Decimal("1000.01"))])

    def test_what_is_not_valid_is_filtered_but_moves_time(self) -> None:
        fold = Folding().at(1, order("a", ("p1", 1, "0.00"))).at(1, order("b", ("p1", 1, "9.00"), currency=None))
        fold.at(500, order("c", ("p1", 1, "9.00"), total="-9"))
        self.assertEqual((fold.rows(), fold.model.filtered, fold.model.watermark(0)), ([], 3, 495_000))

    def test_times_before_1970_fall_into_the_window_they_belong_to(self) -> None:
        self.assertEqual(Folding().at(-1, order("a", ("p1", 1, "1.00"))).rows()[0].window_start, -MINUTE)


class Lateness(unittest.TestCase):
    # The window [0, 60 s) closes when the watermark reaches 180 s, that is after an event at 185 s.
    LATE = order("late", ("p1", 1, "1.00"))

    def test_a_line_is_late_from_the_moment_its_window_closes(self) -> None:
        in_time = Folding().at(184.999).at(59, self.LATE)
        self.assertEqual((len(in_time.rows()), in_time.model.late.total()), (1, 0))
        late = Folding().at(185).at(59, self.LATE)
        self.assertEqual((late.rows(), late.model.late), ([], Counter({LateLine("late", "p1", 1): 1})))

    def test_a_record_does_not_judge_itself(self) -> None:
        fold = Folding().at(10_000, order("first", ("p1", 1, "1.00")))
        self.assertEqual(len(fold.rows()), 1)

    def test_lateness_looks_at_its_own_partition_only(self) -> None:
        fold = Folding(partitions=2).at(10_000, partition=1).at(59, self.LATE, partition=0)
        self.assertEqual((len(fold.rows()), fold.model.late.total()), (1, 0))

    def test_a_wrong_clock_does_not_move_time(self) -> None:
        ahead = Folding().at(1000, arrives=1000 - 300.001).at(59, self.LATE)
        self.assertEqual(ahead.model.late.total(), 0)
        within = Folding().at(1000, arrives=1000 - 300).at(59, self.LATE)
        self.assertEqual(within.model.late.total(), 1)

    def test_late_orders_of_high_value_are_still_copied(self) -> None:
        fold = Folding().at(10_000).at(1, order("a", ("p1", 1, "2000.00")))
        self.assertEqual((fold.model.high_value.total(), fold.model.late.total()), (1, 1))


class Closing(unittest.TestCase):
    def test_the_slowest_partition_decides(self) -> None:
        fold = Folding(partitions=2).at(1, order("a", ("p1", 1, "1.00"))).at(1000, partition=0).at(184.999, partition=1)
        self.assertEqual(fold.rows(closed=fold.model.closed_up_to()), [])
        fold.at(185, partition=1)
        self.assertEqual(fold.model.closed_up_to(), MINUTE)
        self.assertEqual(len(fold.rows(closed=fold.model.closed_up_to())), 1)

    def test_an_empty_partition_holds_everything_back_unless_all_is_closed(self) -> None:
        fold = Folding(partitions=2).at(1, order("a", ("p1", 1, "1.00"))).at(1000)
        self.assertEqual((fold.model.closed_up_to(), fold.rows(closed=fold.model.closed_up_to())), (NEVER, []))
        self.assertEqual((len(fold.rows()), fold.model.open_windows(NEVER), fold.model.open_windows(None)), (1, 2, 0))

    def test_the_interleaving_of_partitions_does_not_matter(self) -> None:
        events = {0: [1, 200, 40, 600, 59], 1: [5, 100, 30, 900, 800]}
        results = []
        for order_of in ([0] * 5 + [1] * 5, [1] * 5 + [0] * 5, [0, 1] * 5):
            fold, left = Folding(partitions=2), {p: list(times) for p, times in events.items()}
            for partition in order_of:
                seconds = left[partition].pop(0)
                fold.at(seconds, order(f"{partition}-{seconds}", ("p1", 1, "1.00")), partition=partition)
            results.append((fold.rows(), fold.model.late, fold.model.closed_up_to()))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])
        self.assertEqual(results[0][1].total(), 2)


def records(*drawn: tuple[int, str, float]) -> list[Record]:
    """Records from (partition, group, seconds), in the order in which they were written."""
    return [Record(partition, offset, group, "p", 1, int(at * 1000)) for offset, (partition, group, at) in enumerate(drawn)]


class Sessions(unittest.TestCase):
    def spans(self, *drawn: tuple[int, str, float], lateness: int = 0) -> tuple[list[tuple[str, int, int, int]], int]:
        rows, late = sessions(records(*drawn), 10_000, 5_000, lateness)
        return [(row.group, row.start // 1000, row.end // 1000, len(row.records)) for row in rows], len(late)

    def test_a_pause_ends_a_session_and_a_row_between_two_makes_one(self) -> None:
        apart = ((0, "a", 20), (0, "a", 30), (0, "a", 40.5), (0, "z", 100))
        self.assertEqual(self.spans(*apart), ([("a", 20, 30, 1), ("a", 30, 40, 1), ("a", 40, 50, 1)], 0))
        bridged = ((0, "a", 20), (0, "a", 38), (0, "a", 33), (0, "a", 29), (0, "z", 100))
        self.assertEqual(self.spans(*bridged), ([("a", 33, 48, 2), ("a", 20, 30, 1)][::-1], 1))
        self.assertEqual(self.spans(*bridged, lateness=4_000), ([("a", 20, 48, 4)], 0))

    def test_the_slowest_partition_decides_what_is_over(self) -> None:
        self.assertEqual(self.spans((0, "a", 20), (0, "z", 100), (1, "z", 34)), ([], 0))
        self.assertEqual(self.spans((0, "a", 20), (0, "z", 100), (1, "z", 35)), ([("a", 20, 30, 1)], 0))


class Calendars(unittest.TestCase):
    def test_days_are_as_long_as_clocks_make_them(self) -> None:
        def length(zone: str, noon: str, offset: int = 0) -> float:
            start, end = Calendar(zone, "d", 1, offset).window(milliseconds(noon))
            return (end - start) / 3_600_000

        self.assertEqual(length("Europe/Berlin", "2026-03-29T12:00:00Z"), 23)
        self.assertEqual(length("Europe/Berlin", "2026-10-25T12:00:00Z"), 25)
        self.assertEqual(length("Europe/Berlin", "2026-10-26T12:00:00Z"), 24)
        self.assertEqual(length("Australia/Lord_Howe", "2026-04-04T15:30:00Z"), 24.5)
        self.assertEqual(length("America/Sao_Paulo", "2018-11-04T12:00:00Z"), 23)

    def test_weeks_and_months(self) -> None:
        week = Calendar("UTC", "w", 1, 0).window(milliseconds("2026-01-01T00:00:00Z"))
        self.assertEqual(week, (milliseconds("2025-12-29T00:00:00Z"), milliseconds("2026-01-05T00:00:00Z")))
        quarter = Calendar("UTC", "mo", 3, DAY).window(milliseconds("2026-04-01T23:00:00Z"))
        self.assertEqual(quarter, (milliseconds("2026-01-02T00:00:00Z"), milliseconds("2026-04-02T00:00:00Z")))

    def test_rows_are_late_when_their_window_is_closed(self) -> None:
        rows, late = calendar(records((0, "a", 1), (0, "a", 90_000), (0, "a", 2)), Calendar("UTC", "d", 1, 0), 0, 0)
        self.assertEqual(([(row.start, row.end, len(row.records)) for row in rows], len(late)), ([(0, DAY, 1)], 1))


class EarlyResults(unittest.TestCase):
    def test_records_count_from_the_first_multiple_after_time_and_watermark(self) -> None:
        drawn = records((0, "a", 5), (0, "a", 19), (0, "a", 45), (0, "a", 39), (0, "z", 90))
        rows, late = early(drawn, 60_000, 20_000, 5_000, 0)
        of_a = [(len(row.records), row.final) for row in rows if row.group == "a"]
        # At 20 two; at 60, when the window closes, the one from 45 and the one from 39, which came at a watermark of 40.
        self.assertEqual((of_a, late), ([(2, False), (4, True)], []))


class StepsOfTheKillTest(unittest.TestCase):
    def test_sessions_repeats_and_pairs(self) -> None:
        steps = Steps()

        def order(before: int, at: int, order_id: str, *products: str) -> None:
            items = [{"productId": product, "quantity": 2} for product in products]
            steps.order(before, at, {"orderId": order_id, "total": Decimal(1), "currency": "EUR", "items": items})

        order(NEVER, 10_000, "o1", "p7", "p7", "p8")
        order(5_000, 10_999, "o2", "p7")
        order(5_000, 11_999, "o1", "p17", "p7")
        order(12_000, 11_998, "o3", "p7")
        order(400_000, 310_000, "o1")
        order(330_000, 310_000, "o1")
        steps.order(NEVER, 0, {"orderId": "o4", "total": Decimal(0), "currency": "EUR", "items": []})
        for at, payment_id, order_id in ((9_000, "a", "o1"), (8_999, "b", "o1"), (15_999, "c", "o2"), (16_000, "d", "o2")):
            steps.payment(NEVER, at, {"orderId": order_id, "paymentId": payment_id})
        steps.payment(2, 1, {"orderId": "o2", "paymentId": "e"})
        wanted = steps.wanted()
        bursts = [("p7", 10_000, 11_999, 3, 2, 6), ("p7", 11_999, 12_999, 1, 1, 2), ("p17", 11_999, 12_999, 1, 1, 2)]
        self.assertEqual(wanted["bursts"], Counter(bursts))
        self.assertEqual(wanted["late_lines_of_bursts"], Counter([("o3", "p7", 2)]))
        self.assertEqual((wanted["once"], wanted["repeats"]), (Counter(["o1", "o1", "o2", "o3"]), Counter(["o1"])))
        self.assertEqual(wanted["late_orders"], Counter(["o1"]))
        self.assertEqual(wanted["paid"], Counter([("o1", "a"), ("o2", "c"), ("o1", None)]))
        self.assertEqual(wanted["late_pairs"], Counter([("o3", None), ("o1", None), ("o1", None), (None, "e")]))


class Reading(unittest.TestCase):
    def test_rows_are_read_from_avro_json_and_tables_alike(self) -> None:
        row = {"product_id": "p", "category": None, "window_start": 0, "window_end": MINUTE, "orders": 1, "quantity": 2, "revenue": Decimal("1.10")}
        start, end = datetime(1970, 1, 1, tzinfo=timezone.utc), datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)
        expected = Revenue("p", None, 0, MINUTE, 1, 2, Decimal("1.1"))
        self.assertEqual(as_revenue(row), expected)
        self.assertEqual(as_revenue(row | {"window_start": start, "window_end": end}), expected)
        self.assertEqual(as_revenue(row | {"window_start": "1970-01-01T00:00:00.000Z", "orders": "1", "revenue": "1.1000"}), expected)

    def test_a_float_is_not_exact(self) -> None:
        with self.assertRaisesRegex(Unreadable, "float"):
            as_high_value({"order_id": "a", "total": 1.5})

    def test_envelopes_and_projections_are_read(self) -> None:
        self.assertEqual(as_high_value({"data": {"orderId": "a", "total": Decimal(5)}}), HighValue("a", Decimal(5)))
        self.assertEqual(as_late({"order_id": "a", "product_id": "p", "quantity": 3, "x": 1}), LateLine("a", "p", 3))
        with self.assertRaisesRegex(Unreadable, "product_id or productId"):
            as_late({"order_id": "a"})

    def test_a_time_needs_a_zone(self) -> None:
        self.assertEqual(milliseconds("2025-08-12T10:00:00.123Z"), 1_754_992_800_123)
        with self.assertRaises(Unreadable):
            milliseconds("2025-08-12T10:00:00")


class Differences(unittest.TestCase):
    def test_rows_too_few_and_too_many_are_counted(self) -> None:
        found = multisets("t", Counter({"a": 2, "b": 1}), Counter({"a": 1, "b": 1, "c": 3}))
        self.assertEqual((found.same, found.missing, found.unexpected), (False, Counter({"a": 1}), Counter({"c": 3})))
        text = "\n".join(found.lines())
        self.assertIn('- "a"', text)
        self.assertIn('+ "c"   (3 times)', text)
        self.assertTrue(multisets("t", Counter("ab"), Counter("ba")).same)

    def test_only_the_first_ten_are_shown(self) -> None:
        lines = list(multisets("t", Counter(range(25)), Counter()).lines())
        self.assertEqual((len(lines), lines[-1]), (12, "  - ... and 15 more missing"))

    def test_a_note_alone_makes_a_difference(self) -> None:
        found = multisets("t", Counter(), Counter())
        found.notes.append("broken")
        self.assertFalse(found.same)

    def test_order_counts_per_key(self) -> None:
        self.assertEqual(orders_per_key("t", {"k": [1, 2], "l": [1]}, {"l": [1], "k": [1, 2]}), [])
        [note] = orders_per_key("t", {"k": [1, 2, 3]}, {"k": [1, 3, 2]})
        self.assertIn("from row 1 of 3", note)

    def test_values_are_equal_by_content_and_kind(self) -> None:
        self.assertEqual(frozen({"a": [1, {"b": Decimal("1.0")}]}), frozen({"a": [1, {"b": Decimal("1.00")}]}))
        self.assertNotEqual(frozen({"a": True}), frozen({"a": 1}))
        self.assertIsInstance(hash(frozen({"a": [{}, None, b"x"]})), int)


class OrdersAndStock(unittest.TestCase):
    def books(self, *moves: str, ends: tuple[str, ...] = ("orders.confirmed",), answers: tuple[str, ...] = ("payments.authorised", "shipping.dispatched")) -> Books:
        books = Books()
        data = {"sku": "a", "bucket": 0, "quantity": 2, "orderId": "o"}
        received = {"sku": "a", "bucket": 0, "quantity": 5}
        named = [("inventory.received", received), *((f"inventory.{move}", data) for move in moves)]
        books.moves({"eventId": f"e{n}", "eventType": name, "data": of, "metadata": {"sequence": n}} for n, (name, of) in enumerate(named, 1))
        books.shop([{"eventType": "orders.placed", "data": {"orderId": "o", "items": [{"sku": "a", "quantity": 2}]}}])
        books.shop({"eventType": name, "data": {"orderId": "o"}} for name in (*ends, *answers))
        return books

    def test_an_order_has_what_it_ordered_or_nothing(self) -> None:
        books = self.books("reserved", "confirmed")
        books.levels({("a", 0): {"received": 5, "on_hand": 3, "reserved": 0, "shipped": 2, "version": 3}})
        books.close()
        self.assertEqual(books.wrong, [])
        cancelled = self.books("reserved", "released", ends=("orders.cancelled",), answers=("payments.authorised", "payments.voided"))
        cancelled.close()
        self.assertEqual(cancelled.wrong, [])

    def test_what_is_wrong_is_found(self) -> None:
        for books, text in [
            (self.books("reserved"), "reserved and shipped"),
            (self.books("reserved", "confirmed", answers=("payments.authorised", "payments.voided", "shipping.dispatched")), "its payment is not there"),
            (self.books("reserved", "released", ends=("orders.cancelled",), answers=("shipping.dispatched",)), "its shipment is there"),
            (self.books("reserved", "reserved", "reserved", "confirmed"), "after inventory.reserved"),
            (self.books("reserved", "confirmed", ends=("orders.confirmed", "orders.confirmed")), "has the ends"),
            (self.books("reserved", "confirmed", ends=()), "has the ends []"),
        ]:
            books.close()
            self.assertIn(text, "\n".join(books.wrong))
        books = self.books("reserved", "confirmed")
        books.levels({})
        books.moves([{"eventId": "e1", "eventType": "inventory.received", "data": {"sku": "a", "bucket": 0}, "metadata": {"sequence": 7}}])
        books.close()
        self.assertEqual(len(books.wrong), 3)

    def test_orders_are_open_until_they_end(self) -> None:
        progress = Progress()
        progress.add({"eventType": "orders.placed", "data": {"orderId": name}} for name in "abca")
        progress.add({"eventType": "orders.confirmed", "data": {"orderId": name}} for name in "ca")
        self.assertEqual(progress.open_orders(), 1)


if __name__ == "__main__":
    unittest.main()
