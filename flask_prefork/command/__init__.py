"""What ``flask prefork-run`` does before it becomes processes: options, help, checks.

The command runs it, and each zygote that is started for a reload. The package imports
``http``, ``ipc``, ``settings``, ``system``, ``tlsproxy`` and ``zygote``. It must not
start a process, bind an address, or import the command.
"""
