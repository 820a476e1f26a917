import { useState, useCallback, useRef, useEffect } from "react";

interface DownloadJob {
  jobId: string;
  status: "queued" | "processing" | "ready" | "failed" | "expired";
  progress: {
    current: number;
    total: number;
    percentage: number;
    estimatedTimeRemaining: number | null;
  };
}

export function useDownloadManager(apiUrl: string) {
  const [job, setJob] = useState<DownloadJob | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [isLoading, setIsLoading] = useState(false);
  const wsRef = useRef<WebSocket | null>(null);
  const pollingIntervalRef = useRef<number | null>(null);

  // Initiate download
  const initiateDownload = useCallback(
    async (fileIds: number[]) => {
      setIsLoading(true);
      setError(null);

      try {
        const response = await fetch(`${apiUrl}/v1/download/initiate`, {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ file_ids: fileIds }),
        });

        if (!response.ok) throw new Error("Failed to initiate download");

        const data = await response.json();
        setJob({
          ...data,
          progress: {
            current: 0,
            total: fileIds.length,
            percentage: 0,
            estimatedTimeRemaining: null,
          },
        });

        // Try WebSocket first, fall back to polling
        connectWebSocket(data.jobId);
      } catch (err) {
        setError(err.message);
        setIsLoading(false);
      }
    },
    [apiUrl],
  );

  // WebSocket connection with fallback
  const connectWebSocket = useCallback(
    (jobId: string) => {
      const protocol = window.location.protocol === "https:" ? "wss:" : "ws:";
      const wsUrl = `${protocol}//${window.location.host}/v1/download/subscribe/${jobId}`;

      try {
        wsRef.current = new WebSocket(wsUrl);

        wsRef.current.onopen = () => {
          console.log("WebSocket connected");
          setIsLoading(false);
        };

        wsRef.current.onmessage = (event) => {
          const message = JSON.parse(event.data);

          switch (message.type) {
            case "progress":
              setJob((prev) => ({
                ...prev!,
                progress: message.data,
              }));
              break;
            case "status":
              setJob((prev) => ({
                ...prev!,
                status: message.data.status,
              }));
              break;
            case "complete":
              setJob((prev) => ({ ...prev!, status: "ready" }));
              downloadFile(jobId);
              break;
            case "error":
              setError(message.data.error);
              setJob((prev) => ({ ...prev!, status: "failed" }));
              break;
          }
        };

        wsRef.current.onerror = () => {
          console.warn("WebSocket error, falling back to polling");
          startPolling(jobId);
        };

        wsRef.current.onclose = () => {
          // If still processing, resume polling
          if (job?.status === "processing") {
            startPolling(jobId);
          }
        };
      } catch (error) {
        console.warn("WebSocket connection failed, using polling", error);
        startPolling(jobId);
      }
    },
    [job?.status],
  );

  // Polling fallback
  const startPolling = useCallback(
    (jobId: string) => {
      pollingIntervalRef.current = window.setInterval(async () => {
        try {
          const response = await fetch(`${apiUrl}/v1/download/job/${jobId}`);

          if (!response.ok) throw new Error("Failed to get job status");

          const jobData = await response.json();
          setJob(jobData);

          // Stop polling when done
          if (jobData.status === "ready" || jobData.status === "failed") {
            if (pollingIntervalRef.current) {
              clearInterval(pollingIntervalRef.current);
            }

            if (jobData.status === "ready") {
              downloadFile(jobId);
            }
          }
        } catch (err) {
          setError(err.message);
        }
      }, 2000); // Poll every 2 seconds

      setIsLoading(false);
    },
    [apiUrl],
  );

  // Download file with presigned URL
  const downloadFile = useCallback(
    async (jobId: string) => {
      try {
        const response = await fetch(
          `${apiUrl}/v1/download/job/${jobId}/download-url`,
        );

        if (!response.ok) throw new Error("Failed to get download URL");

        const { downloadUrl } = await response.json();

        // Create download link
        const link = document.createElement("a");
        link.href = downloadUrl;
        link.download = `download-${jobId}.zip`;
        document.body.appendChild(link);
        link.click();
        document.body.removeChild(link);
      } catch (err) {
        setError(err.message);
      }
    },
    [apiUrl],
  );

  // Retry failed job
  const retry = useCallback(async () => {
    if (!job) return;

    try {
      setIsLoading(true);
      setError(null);

      const response = await fetch(
        `${apiUrl}/v1/download/job/${job.jobId}/retry`,
        {
          method: "POST",
        },
      );

      if (!response.ok) throw new Error("Failed to retry job");

      const data = await response.json();
      setJob(data);
      connectWebSocket(data.jobId);
    } catch (err) {
      setError(err.message);
      setIsLoading(false);
    }
  }, [job, apiUrl, connectWebSocket]);

  // Cleanup on unmount
  useEffect(() => {
    return () => {
      if (wsRef.current) wsRef.current.close();
      if (pollingIntervalRef.current) clearInterval(pollingIntervalRef.current);
    };
  }, []);

  return {
    job,
    error,
    isLoading,
    initiateDownload,
    retry,
  };
}
