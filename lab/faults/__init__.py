"""Faults on the way to a real API server, placed while a test runs.

    async with proxy.FaultProxy(kubeconfig, directory) as faults:
        start_client(faults.kubeconfig)
        claims = rules.Match(resource="persistentvolumeclaims")
        faults.fail(claims, status=500, when=rules.When.AFTER)   # done, but the client is told no
        pause = faults.pause_at(3, rules.When.BEFORE)            # the third change
        await pause.wait_until_reached()
        kill_client()
        pause.drop()                                             # and it was never sent

Nothing of the API server is imitated: the proxy only holds, loses and refuses.
"""
