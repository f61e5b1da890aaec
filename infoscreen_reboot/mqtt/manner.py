"""How a client introduces itself to a broker, and what it tries next if the broker does not let it in; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infoscreen_reboot.mqtt import reasons
from infoscreen_reboot.mqtt.packets import Protocol

# What a setting may say, and which protocols are then tried, in this order.
PROTOCOLS = {
    "auto": (Protocol.MQTT_5, Protocol.MQTT_3_1_1),
    "5": (Protocol.MQTT_5,),
    "3.1.1": (Protocol.MQTT_3_1_1,),
}
# A broker that refuses with one of these may let us in if we ask in another way. RabbitMQ says 0x83 if it cannot reach
# the node that keeps our session. MQTT 3.1.1 has only "not available" for all that.
UNWILLING = (0x80, 0x81, 0x82, 0x83)
_UNWILLING_IN_3_1_1 = 0x88
# A broker that does not answer is asked three times with the old session and a will, then twice with a new session,
# then twice without a will, and so on. The first number says with which protocol.
_TRIES = (
    *((number, {}) for number in (0, 1, 0)),
    *((number, {"is_new": True}) for number in (0, 1)),
    *((number, {"has_will": False}) for number in (0, 1)),
)
# A client that is not authorised may be one whose will is not. Each fourth try is without it.
_TRIES_WITH_WILL = 3
# So many connections in a row may end at something that we cannot take; then we ask for a new session without it.
_TRIES_WITH_POISON = 3
_MQTT_5_AGAIN_AT_MOST_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Manner:
    """What of a CONNECT may change from one try to the next. `is_new` asks the broker to forget the old session."""

    protocol: Protocol = Protocol.MQTT_5
    has_will: bool = True
    will_qos: int = 1
    will_retain: bool = True
    is_new: bool = False


class Trial:
    """Remembers what a broker did with our CONNECTs, and says how to ask next. Times are in seconds, of any clock."""

    def __init__(self, setting: str = "auto", *, speaks_3_1_1: bool = False, mqtt_5_again_s: float = 300.0) -> None:
        """`speaks_3_1_1`: an earlier run found out that this broker does not answer in MQTT 5.

        `mqtt_5_again_s` is the pause until MQTT 5 is tried again; it doubles each time that this is in vain.
        """
        self._protocols = PROTOCOLS[setting]
        self._is_auto = len(self._protocols) > 1
        self._again_s = mqtt_5_again_s
        self._again_at: float | None = None
        self._unanswered = 0
        self._unauthorised = 0
        self._poisoned = 0
        self._will_qos, self._will_retain = 1, True
        self.speaks_3_1_1 = speaks_3_1_1 and self._is_auto

    def manner(self) -> Manner:
        """How to ask now."""
        number, asked = _TRIES[self._unanswered % len(_TRIES)]
        order = self._protocols[::-1] if self.speaks_3_1_1 else self._protocols
        manner = Manner(order[number % len(order)], will_qos=self._will_qos, will_retain=self._will_retain, **asked)
        if self._unauthorised % (_TRIES_WITH_WILL + 1) == _TRIES_WITH_WILL:
            manner = replace(manner, has_will=False)
        if self._poisoned >= _TRIES_WITH_POISON:
            manner = replace(manner, is_new=True)
        return manner

    def on_no_answer(self) -> None:
        """The broker was reached, and closed the connection or stayed silent."""
        self._unanswered += 1

    def on_refusal(self, code: int, protocol: Protocol = Protocol.MQTT_5) -> None:
        """The broker, asked in `protocol`, refused with this code of MQTT 5."""
        if code in UNWILLING or (code == _UNWILLING_IN_3_1_1 and protocol is Protocol.MQTT_3_1_1):
            self._unanswered += 1
        elif code == reasons.NOT_AUTHORISED:
            self._unauthorised += 1

    def on_welcome(self, manner: Manner, now_s: float, *, has_retained: bool, maximum_qos: int) -> None:
        """The broker let us in after it was asked like this, and said what it has."""
        if self.manner().is_new:
            self._poisoned = 0  # it was left behind with the old session
        # An explicit no to MQTT 5 costs one round trip, so it is asked anew each time. Silence costs much more.
        was_by_trial = self.speaks_3_1_1 or self._unanswered > 0
        self.speaks_3_1_1 = self._is_auto and manner.protocol is Protocol.MQTT_3_1_1 and was_by_trial
        self._again_at = now_s + self._again_s if self.speaks_3_1_1 else None
        self._unanswered = self._unauthorised = 0
        self._will_qos, self._will_retain = min(1, maximum_qos), has_retained

    def on_poison(self) -> None:
        """The connection ended at something that the broker delivers and we cannot take; it will come again."""
        self._poisoned += 1

    def on_good_service(self) -> None:
        """A connection lasted."""
        self._poisoned = 0

    def wants_mqtt_5_again(self, now_s: float) -> bool:
        """Whether it is time to find out if the broker has learnt MQTT 5."""
        return self._again_at is not None and now_s >= self._again_at

    def try_mqtt_5(self) -> None:
        """Let the next try be in MQTT 5."""
        self.speaks_3_1_1 = False
        self._again_at = None
        self._again_s = min(2 * self._again_s, _MQTT_5_AGAIN_AT_MOST_S)
