"""The far end of a broker: `consumer PORT`; stores nothing, acknowledges what the bridge would.

Batches of an outbox get the acknowledgement of how far everything is there. Plain messages are
counted: topic `plain/ROWS/TOTAL` carries ROWS rows, and after TOTAL of them `done` is published.
Plain paho on both ways, so that it costs the same for all contenders.
"""

import sys
from collections import Counter

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from aimass_shared import messages, topics
from aimass_shared.messages import StreamAck, StreamBatch
from aimass_shared.streams import advance
from benchmarks.children.lines import answer

UPTO: Counter[str] = Counter()
COUNTED: Counter[str] = Counter()


def take(client: Client, _data: object, message: MQTTMessage) -> None:
    """A message of either kind."""
    if message.topic.startswith("plain/"):
        _count(client, message.topic)
        return
    batch = messages.decode(bytes(message.payload), StreamBatch)
    further = advance(UPTO[batch.epoch], batch)
    UPTO[batch.epoch] = UPTO[batch.epoch] if further is None else further
    ack = StreamAck(epoch=batch.epoch, upto=UPTO[batch.epoch])
    path = topics.parse(message.topic)
    client.publish(topics.ack(path.device, path.item), messages.encode(ack), 1)


def _count(client: Client, topic: str) -> None:
    _, rows, total = topic.split("/")
    COUNTED[topic] += int(rows)
    if COUNTED[topic] >= int(total):
        del COUNTED[topic]
        client.publish("done", b"", 1)


def listen(client: Client, *_: object) -> None:
    """On each connect."""
    client.subscribe([(topics.all_up(), 1), ("plain/#", 1)])


def main(port: int) -> None:
    """Consume until the input is closed."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message, client.on_connect = take, listen
    subscribed: list[object] = []
    client.on_subscribe = lambda *_: subscribed.append(None)
    client.connect("127.0.0.1", port)
    while not subscribed:
        client.loop()
    client.loop_start()
    answer(lambda _words: {})
    client.loop_stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
