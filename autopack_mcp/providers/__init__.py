"""The vendors' SDKs behind one small protocol; nothing above ``llm_service`` may reach in here."""
