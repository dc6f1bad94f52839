"""Taking a release: fetch, verify, install, prove, try, then keep it or go back.

Import from the modules: `updater.Updater` is what the agent uses. This file imports nothing, since
the child process of the self-test passes through it and shall stay small.
"""
