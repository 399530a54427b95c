"""Damaged files, thousands of them: each must load or be refused with one located error, soon and in little memory."""
