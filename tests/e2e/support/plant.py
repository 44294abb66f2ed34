"""The mapping's text, and the usual start: a gateway on a plant with somebody listening."""


def device(points, *, unit=1, name="dev", interval=100, keys=""):
    return f'[[modbus.device]]\nname = "{name}"\nunit = {unit}\ninterval_ms = {interval}\n{keys}\n' + "".join(
        f"[[modbus.device.point]]\n{point}\n" for point in points
    )


def running(gateway, client, mapping, **options):
    """A gateway with this mapping, and a client that is subscribed to all of its topics before it is asked."""
    started = gateway(mapping=mapping, **options).start()
    listener = client(started)
    listener.subscribe("gw/#")
    return started, listener


def value_of(listener, topic):
    return listener.wait_for(topic, lambda m: m.json["value"] is not None).json["value"]
